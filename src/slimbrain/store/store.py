"""Sessions on disk: a BIDS derivative whose data files are safetensors, and the contract that guards them.

One file per session holds `voxels` (T, P, V) float16, `mean` and `std` (P, V) float32 and `coarse` (T, C) float32; a
region-of-interest session holds `coarse` and `coordinates` (C, 3) alone. A JSON sidecar tells where it came from, and
`sessions.tsv` lists all, so that opening a store never walks its folders.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from slimbrain.disk.atomic import write_json, write_text
from slimbrain.disk.locks import locked
from slimbrain.disk.tensorfile import read_metadata, read_rows
from slimbrain.disk.tsv import MISSING
from slimbrain.display import Displayed
from slimbrain.errors import ContractError, InputError, StoreError
from slimbrain.grid import MASK_FILE, Grid
from slimbrain.store.channels import Channels, cell_channels
from slimbrain.store.contract import ROI, Contract
from slimbrain.store.description import COHORT, CONTRACT, DATA_BYTES, DESCRIPTION_FILE, cohort_from_sidecar, describe, read_object
from slimbrain.store.manifest import (
    MANIFEST_COLUMNS,
    MANIFEST_FILE,
    SUBJECT,
    SessionInfo,
    SessionTable,
    read_manifest,
    read_part,
    read_parts,
    row_differences,
)
from slimbrain.store.participants import read_participants
from slimbrain.store.records import Governance, record_of
from slimbrain.store.terms import UNKNOWN, canonical_licence
from slimbrain.store.withdrawn import WithdrawalRecord, Withdrawn, refusal, refuse_withdrawn, withdrawn

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

_FloatArray = npt.NDArray[Any]


_TENSORS = {
    "voxels": (3, "float16"),
    "mean": (2, "float32"),
    "std": (2, "float32"),
    "coarse": (2, "float32"),
    "coordinates": (2, "float32"),
}
"""Number of axes, and type, of each tensor of a session."""

_SERIES = ("voxels", "coarse")
"""Tensors whose first axis is time."""


class Store(Displayed):
    """A folder of prepared sessions.

    Parameters
    ----------
    root : str or Path
        Folder that `Store.create` or `slimbrain prep` made.
    part : str
        Name under which this process lists what it writes, until `collect_parts` brings it into the manifest; it sees these
        sessions, others do not yet. Empty: the manifest itself.

    Raises
    ------
    StoreError
        If it is not a store.

    Examples
    --------
    >>> store = Store("store")
    >>> len(store.sessions), store.contract.tr
    (3, 0.72)
    >>> key = "sub-01_task-rest_run-1_space-MNI152NLin6Asym"
    >>> store.voxels(key, 0, 8).shape == (8, store.grid.n_patches, store.grid.voxels_per_patch)
    True
    >>> store.image(key, frames=0).shape
    (24, 24, 24)
    """

    def __init__(self, root: str | Path, part: str = "") -> None:
        self.root, self.part = Path(root), part
        if not (self.root / DESCRIPTION_FILE).is_file():
            what = f"it has no {DESCRIPTION_FILE}" if self.root.is_dir() else "there is no such folder"
            raise StoreError(f"{self.root}: is not a store: {what}; point at the output of `slimbrain prep`.")
        description = read_object(self.root / DESCRIPTION_FILE)
        if CONTRACT not in description:
            raise StoreError(f"{self.root}: its {DESCRIPTION_FILE} was not written by slimbrain; point at the output of `slimbrain prep`.")
        self.description = description
        self.contract = Contract.from_dict(description[CONTRACT])

    @classmethod
    def create(cls, root: str | Path, grid: Grid | None, tr: float, sources: Sequence[str] = ()) -> Store:
        """Make an empty store, or open the one that is there after comparing contracts.

        Parameters
        ----------
        root : str or Path
            Folder to make.
        grid : Grid or None
            Lattice and mask; None for a store of region-of-interest sessions alone.
        tr : float
            Seconds per frame that series are brought to.
        sources : sequence of str
            Where the recordings come from, for `SourceDatasets`.

        Returns
        -------
        Store
            Empty, or with the sessions that are there.

        Raises
        ------
        ContractError
            If a store with another lattice, mask or TR is there.
        StoreError
            If the folder cannot be written, or holds a store that cannot be read.
        """
        root = Path(root)
        contract = Contract(grid.lattice.id, grid.hash, "MNI152", tr) if grid else Contract(ROI, "", ROI, tr)
        if not (root / DESCRIPTION_FILE).exists():
            try:
                root.mkdir(parents=True, exist_ok=True)
                # Jobs that start together must not empty each other's manifest.
                with locked(root):
                    if not (root / DESCRIPTION_FILE).exists():
                        _make(root, grid, contract, sources)
            except OSError as error:
                raise StoreError(f"{root}: cannot make a store here ({error.strerror}); choose a folder you may write to.") from error
        store = cls(root)
        store.contract.require(contract, f"the store {root}", "what is to be written")
        return store

    @cached_property
    def grid(self) -> Grid:
        """Lattice and mask of the voxel sessions.

        Raises
        ------
        ContractError
            If the mask on disk is not the one the contract names.
        StoreError
            If the store holds region-of-interest series alone.
        """
        if self.contract.lattice == ROI:
            raise StoreError(
                f"{self.root}: holds region-of-interest series without voxels; stage 2 needs a store from `slimbrain prep` on images."
            )
        grid = Grid.load(self.root / MASK_FILE, self.contract.lattice)
        if grid.hash != self.contract.mask:
            raise ContractError(
                f"{self.root / MASK_FILE}: is not the mask this store was made with; restore it, or run `slimbrain prep` again."
            )
        return grid

    @cached_property
    def sessions(self) -> SessionTable:
        """All sessions, sorted by key; none of a participant who was withdrawn."""
        listed = read_manifest(self.root / MANIFEST_FILE)
        return self._living(listed.updated(read_part(self.root, self.part)) if self.part else listed)

    def _living(self, listed: SessionTable) -> SessionTable:
        """Sessions of participants who were not withdrawn."""
        gone = withdrawn(self.root)
        suspects = gone.suspects(listed.subjects) if gone else ()
        if not suspects:
            return listed
        people = enumerate(listed.column(SUBJECT))
        return listed.take([place for place, who in people if who not in suspects or not self._withdrawal(listed[place], gone)])

    def refresh(self) -> None:
        """Read the table of sessions again when it is next asked for."""
        self.__dict__.pop("sessions", None)

    @cached_property
    def participants(self) -> dict[str, dict[str, str]]:
        """Columns of `participants.tsv` by participant (`sub-01`); empty if there is none."""
        return read_participants(self.root)

    def select(self, subjects: Collection[str]) -> Store:
        """The same store, showing only the sessions of these participants.

        Parameters
        ----------
        subjects : collection of str
            Participants, as `sub-01`.

        Returns
        -------
        Store
            A view: the files are shared.

        Raises
        ------
        InputError
            If one of them has no session here, or was withdrawn.
        """
        wanted = set(subjects)
        missing = sorted(wanted - self.sessions.subjects)
        if missing:
            refuse_withdrawn(self.root, missing[0], "")
            raise InputError(
                f"{self.root}: has no session of {len(missing)} participants asked for, first {missing[0]}; "
                "name participants that were prepared."
            )
        return self._view(self.sessions.take([place for place, who in enumerate(self.sessions.column(SUBJECT)) if who in wanted]))

    def only(self, keys: Collection[str]) -> Store:
        """The same store, showing only these sessions.

        Parameters
        ----------
        keys : collection of str
            Of sessions, as in `store.sessions`.

        Returns
        -------
        Store
            A view: the files are shared.

        Raises
        ------
        StoreError
            If one of them is not here, or its participant was withdrawn.
        """
        return self._view(SessionTable.of([self.session(key) for key in sorted(set(keys))]))

    def with_uncollected(self) -> Store:
        """The same store, showing also what shards prepared and that was not collected yet (`slimbrain.store.parts`).

        Returns
        -------
        Store
            A view: the files are shared.

        Raises
        ------
        StoreError
            If a table of sessions cannot be read.
        """
        return self._view(self._living(read_manifest(self.root / MANIFEST_FILE).updated(read_parts(self.root).values())))

    def _view(self, shown: SessionTable) -> Store:
        view = Store(self.root)
        view.__dict__["sessions"] = shown
        return view

    def find(self, key: str) -> SessionInfo | None:
        """The manifest row called `key`, if there is one of a participant who was not withdrawn when the table was read.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        SessionInfo or None
            None if there is none.

        Raises
        ------
        StoreError
            If the table of sessions cannot be read.
        """
        return self.sessions.find(key)

    def session(self, key: str) -> SessionInfo:
        """The manifest row called `key`.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        SessionInfo
            What the manifest says of the session.

        Raises
        ------
        StoreError
            If there is none, or its participant was withdrawn, be it since the store was opened.
        """
        info = self.sessions.find(key)
        if info is None:
            refuse_withdrawn(self.root, key.split("_", 1)[0], "")
            raise StoreError(f"{self.root}: has no session {key}; `slimbrain inspect {self.root}` lists what there is.")
        gone = withdrawn(self.root)
        if record := gone and self._withdrawal(info, gone):
            raise StoreError(refusal(self.root, info.subject, record))
        return info

    def cohort(self, info: SessionInfo) -> str:
        """The study that a session's participant is one of.

        Parameters
        ----------
        info : SessionInfo
            One of `store.sessions`.

        Returns
        -------
        str
            Empty where nobody knows.

        Raises
        ------
        StoreError
            If neither the row names one nor the sidecar can be read.
        """
        return info.cohort or str(self.sidecar(info.key).get(COHORT) or "")

    def governance(self, info: SessionInfo) -> Governance:
        """Under what terms a session may be used.

        Parameters
        ----------
        info : SessionInfo
            One of `store.sessions`.

        Returns
        -------
        Governance
            Cohort, licence and consent, with `unknown` for what the store does not say.

        Raises
        ------
        StoreError
            If the manifest names terms that are not there.
        """
        told = record_of(self.root, info)
        if told is not None:
            return told
        try:
            licence = canonical_licence(str(self.description.get("License") or UNKNOWN))
        except ValueError:
            licence = UNKNOWN
        return Governance(cohort=self.cohort(info) or UNKNOWN, licence=licence)

    def _withdrawal(self, info: SessionInfo, gone: Withdrawn) -> WithdrawalRecord | None:
        record = gone.find(info.subject, info.cohort)
        # An older row names no cohort, its sidecar may: another's data are not to be hidden for an equal label.
        if record is None or info.cohort:
            return record
        return gone.find(info.subject, cohort_from_sidecar((self.root / info.path).with_suffix(".json")))

    def sidecar(self, key: str) -> dict[str, Any]:
        """Everything recorded when the session was prepared.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        dict of str to object
            The JSON file beside the data: source, quality, transforms.

        Raises
        ------
        StoreError
            If there is no such session, its participant was withdrawn, or its file cannot be read.
        """
        return read_object((self.root / self.session(key).path).with_suffix(".json"))

    def is_whole(self, key: str) -> bool:
        """Whether data, sidecar and row of a listed session belong together, as far as can be told without reading the data.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        bool
            False if a file is missing, or sizes or entries differ.

        Raises
        ------
        StoreError
            If there is no such session, its participant was withdrawn, or the sidecar cannot be read.
        """
        info = self.session(key)
        path = self.root / info.path
        if not path.is_file() or not path.with_suffix(".json").is_file():
            return False
        sidecar, size = self.sidecar(key), path.stat().st_size
        return sidecar.get(DATA_BYTES, size) == size and not row_differences(info, sidecar)

    def channels(self, key: str) -> Channels:
        """Names and places of the session's coarse channels.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        Channels
            C names, and (C, 3) places in MNI mm: of regions, or of the grid's cells.

        Raises
        ------
        StoreError
            If there is no such session, its participant was withdrawn, or its file cannot be read.
        """
        info = self.session(key)
        if info.space == ROI:
            names, mm = self.sidecar(key).get("Channels"), self._read(info, "coordinates")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or mm.shape != (len(names), 3):
                raise StoreError(f"{self.root / info.path}: lacks the names of its {len(mm)} channels; run `slimbrain prep` again.")
            return Channels(tuple(names), mm)
        return cell_channels(self.grid)

    def coarse(self, key: str) -> _FloatArray:
        """Series of the session's channels; of a voxel session, the mean of each cell's voxels.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        ndarray
            (T, C) float32.

        Raises
        ------
        StoreError
            If there is no such session, its participant was withdrawn, or its file cannot be read.
        """
        return self._read(self.session(key), "coarse")

    def voxels(self, key: str, start: int = 0, stop: int | None = None) -> _FloatArray:
        """Voxels of the frames asked for; only their bytes are read.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.
        start, stop : int, int or None
            First frame, and one after the last; to the end if None.

        Returns
        -------
        ndarray
            (stop - start, P, V) float16, z-scored over the session.

        Raises
        ------
        StoreError
            If there is no such session, it has no voxels, has no such frames, or its file cannot be read.
        """
        info = self._voxel_session(key)
        stop = info.n_frames if stop is None else stop
        if not 0 <= start < stop <= info.n_frames:
            raise StoreError(f"{info.path}: frames {start}:{stop} asked for, it has {info.n_frames}; ask within these.")
        return self._read(info, "voxels", [slice(start, stop)])

    def windows(self, key: str, starts: Sequence[int], frames: int) -> _FloatArray:
        """Voxels of stretches of equal length, from one read.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.
        starts : sequence of int
            First frame of each stretch.
        frames : int
            Frames per stretch.

        Returns
        -------
        ndarray
            (len(starts) * frames, P, V) float16, z-scored over the session, stretches in the order given.

        Raises
        ------
        StoreError
            If there is no such session, it has no voxels, has no such frames, or its file cannot be read.
        """
        info = self._voxel_session(key)
        if not starts or frames < 1 or min(starts) < 0 or max(starts) + frames > info.n_frames:
            asked = f"{frames} frames from each of {list(starts)}"
            raise StoreError(f"{info.path}: {asked} asked for, it has {info.n_frames}; ask within these.")
        return self._read(info, "voxels", [slice(start, start + frames) for start in starts])

    def moments(self, key: str) -> tuple[_FloatArray, _FloatArray]:
        """Mean and standard deviation over time, which undo the z-score.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        tuple of ndarray
            Two of (P, V) float32, in the source's units.

        Raises
        ------
        StoreError
            If there is no such session, it has no voxels, or its file cannot be read.
        """
        info = self._voxel_session(key)
        return self._read(info, "mean"), self._read(info, "std")

    def image(self, key: str, frames: int | slice | None = None, zscored: bool = False) -> Nifti1Image:
        """A session's voxels as NIfTI in MNI space, for viewers and nilearn.

        Parameters
        ----------
        key : str
            A session with voxels.
        frames : int or slice or None
            One frame, which gives a 3D image, or a stretch without steps; all of the session if not given.
        zscored : bool
            Values as they are stored, z-scored over time, rather than in the source's units.

        Returns
        -------
        Nifti1Image
            3D or, with time last, 4D on the lattice, in mm and seconds.

        Raises
        ------
        StoreError
            If there is no such session, it has no voxels, has no such frames, or its file cannot be read.
        """
        import nibabel

        info = self._voxel_session(key)
        # What numpy counts with, such as the place of a maximum, is a number as well.
        frames = int(frames) if isinstance(frames, Integral) else frames
        one = isinstance(frames, int)
        start, stop, step = _stretch(frames, one).indices(info.n_frames)
        if step != 1 or stop <= start:
            raise StoreError(f"{info.path}: frames {frames} asked for, it has {info.n_frames}; ask for one, or for a stretch within these.")
        values = self._read(info, "voxels", [slice(start, stop)]).astype("float32")
        if not zscored:
            mean, std = self.moments(key)
            values = values * std + mean
        dense = self.grid.unpack(values)
        image = nibabel.Nifti1Image(dense[0] if one else dense.transpose(1, 2, 3, 0), self.grid.lattice.affine)
        image.header.set_xyzt_units("mm", "sec")
        if not one:
            image.header.set_zooms((*image.header.get_zooms()[:3], info.tr))
        return image

    def display_facts(self) -> Mapping[str, object]:
        """Where it is, what is in it, and under what terms.

        Returns
        -------
        mapping of str to object
            Name of each fact and its value, as shown in a notebook.
        """
        sessions, contract = self.sessions, self.contract
        kind = "series of regions" if contract.lattice == ROI else f"voxels on {contract.lattice}"
        facts: dict[str, object] = {"root": self.root, "sessions": len(sessions), "participants": len(sessions.subjects), "holds": kind}
        if sessions:
            lengths = [int(cell or 0) for cell in sessions.column("n_frames")]
            facts["frames"] = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
        facts["TR"] = f"{contract.tr:g} s"
        for name in ("task", "cohort", "licence"):
            cells = sessions.column(name) if name == "task" or name in sessions.further else []
            facts[name] = ", ".join(sorted({cell for cell in cells if cell and cell != MISSING})) or UNKNOWN
        return facts

    def session_contract(self, key: str) -> Contract:
        """The contract that the session's own file carries.

        Parameters
        ----------
        key : str
            Of a session, as in `store.sessions`.

        Returns
        -------
        Contract
            The store's, unless the file was copied from elsewhere.

        Raises
        ------
        StoreError
            If there is no such session, its participant was withdrawn, or its file carries no readable contract.
        """
        path = self.root / self.session(key).path
        try:
            return Contract.from_dict(json.loads(read_metadata(path)["slimbrain"])["contract"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: carries no readable contract ({error}); delete it and run `slimbrain prep` again.") from error

    def _voxel_session(self, key: str) -> SessionInfo:
        info = self.session(key)
        if info.space == ROI:
            raise StoreError(f"{info.path}: is a region-of-interest session without voxels; use a session prepared from an image.")
        return info

    def _read(self, info: SessionInfo, name: str, parts: Sequence[slice] | None = None) -> _FloatArray:
        path = self.root / info.path
        again = f"delete it and run `slimbrain prep` again for {info.subject}."
        try:
            rows = read_rows(path, name, parts, info.n_frames if name in _SERIES else None)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot read {name} ({error}); {again}") from error
        if (rows.ndim, str(rows.dtype)) != _TENSORS[name]:
            raise StoreError(f"{path}: {name} is {rows.dtype} with {rows.ndim} axes, not what a store holds; {again}")
        return rows


def _stretch(frames: int | slice | None, one: bool) -> slice:
    """Frames asked for as a slice; -1 is the last."""
    if one:
        return slice(frames, frames + 1 or None)  # type: ignore[operator]
    if frames is None:
        return slice(None)
    if isinstance(frames, slice):
        return frames
    raise StoreError(f"frames {frames!r}: is neither one frame nor a stretch; give a number, a slice, or nothing for all of the session.")


def _make(root: Path, grid: Grid | None, contract: Contract, sources: Sequence[str]) -> None:
    if grid:
        grid.save_mask(root / MASK_FILE)
    write_text(root / MANIFEST_FILE, "\t".join(MANIFEST_COLUMNS) + "\n")
    # Last, since its presence says that the store is whole.
    write_json(root / DESCRIPTION_FILE, describe(contract, sources))
