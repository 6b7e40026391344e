"""What a fetcher gives: a source that `slimbrain prep` reads as it is."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FetchedDataset:
    """A cohort on this machine.

    Attributes
    ----------
    name : str
        As in `slimbrain datasets`.
    source : Path
        Folder or table for `slimbrain prep`.
    recordings : tuple of Path
        One file per recording that was asked for and is there.
    participants : Path
        `participants.tsv` with age, sex, site and the like.
    missing : tuple of str
        Participants whose recording the server does not have.

    Examples
    --------
    >>> from pathlib import Path
    >>> FetchedDataset("abide-parcels", Path("abide-cc200"), (), Path("abide-cc200/participants.tsv")).prep_command
    'slimbrain prep abide-cc200 abide-cc200-store participant'
    """

    name: str
    source: Path
    recordings: tuple[Path, ...]
    participants: Path
    missing: tuple[str, ...] = ()

    @property
    def prep_command(self) -> str:
        """The command that makes a store of it."""
        folder = self.source if self.source.suffix == "" else self.source.parent
        return shlex.join(["slimbrain", "prep", str(self.source), f"{folder}-store", "participant"])


def nilearn_folder(data_dir: str | Path | None) -> Path:
    """Where data sets are kept: `data_dir`, or the folder in which nilearn keeps its own (`~/nilearn_data`, `NILEARN_DATA`)."""
    if data_dir is not None:
        return Path(os.path.expanduser(data_dir))
    from nilearn.datasets import get_data_dirs

    return Path(get_data_dirs()[0])
