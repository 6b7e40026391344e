"""nilearn's development_fmri (children and adults who watch a film), with the tables that `slimbrain prep` takes."""

from __future__ import annotations

import os
from pathlib import Path

from slimbrain.datasets.fetched import FetchedDataset
from slimbrain.disk.atomic import write_text
from slimbrain.disk.tsv import MISSING, format_tsv

_SPACE = "MNI152NLin2009cAsym"
_COLUMNS = {"age": "Age", "group": "Child_Adult", "sex": "Gender", "handedness": "Handedness"}
"""Column of participants.tsv -> column of nilearn's table."""


def fetch_development_fmri(n_subjects: int | None = None, data_dir: str | Path | None = None) -> FetchedDataset:
    """Download nilearn's development_fmri, without an account, by nilearn's own fetcher, which resumes.

    Into a folder `slimbrain` beside the images go `images.tsv` and `participants.tsv`: `slimbrain prep` reads the former as it is.

    Parameters
    ----------
    n_subjects : int, optional
        So many, children and adults in the proportion of the sample; all 155 if not given.
    data_dir : str or Path, optional
        nilearn's data folder if not given.

    Returns
    -------
    FetchedDataset
        Whose `source` is `images.tsv`.

    Raises
    ------
    OSError
        By nilearn, if the server cannot be reached.

    Examples
    --------
    >>> from slimbrain.datasets import fetch_development_fmri
    >>> fetched = fetch_development_fmri(n_subjects=10)  # doctest: +SKIP
    >>> print(fetched.prep_command)  # doctest: +SKIP
    slimbrain prep .../slimbrain/images.tsv .../slimbrain-store participant
    """
    from nilearn.datasets import fetch_development_fmri as fetch

    fetched = fetch(n_subjects=n_subjects, reduce_confounds=False, data_dir=data_dir)
    people = fetched.phenotypic.to_dict("records")
    # nilearn keeps a participants.tsv of its own beside the images.
    folder = Path(fetched.func[0]).parent / "slimbrain"
    images = [
        {
            "path": os.path.relpath(image, folder),
            "participant_id": person["participant_id"],
            "space": _SPACE,
            "task": "pixar",
            "tr": f"{float(fetched.t_r):g}",
            "confounds": os.path.relpath(confounds, folder),
        }
        for image, confounds, person in zip(fetched.func, fetched.confounds, people, strict=True)
    ]
    table = write_text(folder / "images.tsv", format_tsv(list(images[0]), images))
    rows = [
        {"participant_id": person["participant_id"], **{name: person.get(column, MISSING) for name, column in _COLUMNS.items()}}
        for person in people
    ]
    participants = write_text(folder / "participants.tsv", format_tsv(["participant_id", *_COLUMNS], rows))
    return FetchedDataset("development-fmri", table, tuple(map(Path, fetched.func)), participants)
