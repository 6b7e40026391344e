"""ABIDE I as the Preprocessed Connectomes Project has it on Amazon S3: parcel series of C-PAC, and what is known of the participants."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from slimbrain.datasets.download import Downloads, NotOnServerError
from slimbrain.datasets.fetched import FetchedDataset, nilearn_folder
from slimbrain.disk.atomic import write_json, write_text
from slimbrain.disk.locks import locked
from slimbrain.disk.tsv import MISSING, format_tsv
from slimbrain.errors import InputError
from slimbrain.progress import track

_URL = "https://s3.amazonaws.com/fcp-indi/data/Projects/ABIDE_Initiative"
_PHENOTYPES = "Phenotypic_V1_0b_preprocessed1.csv"
_SOURCE = "sourcedata"

_TR_S = {
    **dict.fromkeys(("CALTECH", "CMU", "NYU", "SDSU", "STANFORD", "TRINITY", "UM_1", "UM_2", "USM", "YALE"), 2.0),
    **dict.fromkeys(("KKI", "OHSU"), 2.5),
    **dict.fromkeys(("LEUVEN_1", "LEUVEN_2"), 1.656),
    **dict.fromkeys(("MAX_MUN", "UCLA_1", "UCLA_2"), 3.0),
    **dict.fromkeys(("OLIN", "PITT"), 1.5),
    "SBL": 2.2,
}
"""Seconds per frame by SITE_ID, from the scan parameters that the sites published with ABIDE I; the series do not say."""

_QUALITY = {
    "qc_rater_1": ("OK",),
    "qc_anat_rater_2": ("OK", "maybe"),
    "qc_func_rater_2": ("OK", "maybe"),
    "qc_anat_rater_3": ("OK",),
    "qc_func_rater_3": ("OK",),
}
"""What three raters must have said: the filter of nilearn's `fetch_abide_pcp(quality_checked=True)`."""

_NO_FILE, _NOTHING = "no_filename", ("", "-9999", "-9999.0", "n/a")
_FILE_ID = re.compile(r"[A-Za-z0-9_]+")

_COLUMNS: Mapping[str, tuple[str, Mapping[str, str] | None]] = {
    "sex": ("SEX", {"1": "M", "2": "F"}),
    "age": ("AGE_AT_SCAN", None),
    "diagnosis": ("DX_GROUP", {"1": "autism", "2": "control"}),
    "site": ("SITE_ID", None),
    "eyes": ("EYE_STATUS_AT_SCAN", {"1": "open", "2": "closed"}),
    "fiq": ("FIQ", None),
    "fd_mean": ("func_mean_fd", None),
    "handedness": ("HANDEDNESS_CATEGORY", None),
}
"""Column of participants.tsv -> column of the phenotype file, and what its codes mean."""

_GOVERNANCE = """# docs/ledger.md says where these terms were read; change them if yours are others.
cohort: ABIDE I
source: http://preprocessed-connectomes-project.org/abide
license: CC-BY-NC-SA-3.0
"""

_Row = Mapping[str, str]


def fetch_abide_parcels(
    n_subjects: int | None = None,
    data_dir: str | Path | None = None,
    *,
    parcels: Literal["cc200", "cc400"] = "cc200",
    band_pass_filtering: bool = False,
    global_signal_regression: bool = False,
    quality_checked: bool = True,
    sites: Sequence[str] = (),
    url: str = _URL,
) -> FetchedDataset:
    """Download parcel series of ABIDE I, without an account; run again, it fetches only what is missing or damaged.

    Series are those of the C-PAC pipeline. Each becomes a table under BIDS' names, with its TR in a JSON file, beside `channels.tsv`,
    `participants.tsv` and `governance.yaml`: `slimbrain prep` reads the folder as it is. No sums are published, so downloads are
    compared with the size, and where it is one with the MD5, that the server gives; `downloads.tsv` keeps their SHA-256.

    Parameters
    ----------
    n_subjects : int, optional
        The first so many participants of the phenotype file that pass the filters; all (about 870) if not given.
    data_dir : str or Path, optional
        Where the folder `abide-cc200` is made; nilearn's data folder if not given.
    parcels : 'cc200' or 'cc400', default 'cc200'
        Craddock's parcellation into 200 or 392 parcels.
    band_pass_filtering : bool, default False
        Series filtered to 0.01-0.1 Hz.
    global_signal_regression : bool, default False
        Series without the global signal.
    quality_checked : bool, default True
        Only participants whom three raters passed, as nilearn's `fetch_abide_pcp`.
    sites : sequence of str, optional
        Only these, such as 'NYU'.
    url : str
        Where ABIDE lies; for mirrors.

    Returns
    -------
    FetchedDataset
        Whose `source` is the folder, and whose `missing` names participants without a series on the server.

    Raises
    ------
    InputError
        If the server cannot be reached or sends something else, or no participant passes the filters.

    Examples
    --------
    >>> from slimbrain.datasets import fetch_abide_parcels
    >>> fetched = fetch_abide_parcels(20, sites=["NYU"])  # doctest: +SKIP
    >>> print(fetched.prep_command)  # doctest: +SKIP
    slimbrain prep .../abide-cc200 .../abide-cc200-store participant
    """
    strategy = f"{'' if band_pass_filtering else 'no'}filt_{'' if global_signal_regression else 'no'}global"
    folder = nilearn_folder(data_dir) / (f"abide-{parcels}" if strategy == "nofilt_noglobal" else f"abide-{parcels}-{strategy}")
    downloads = Downloads(folder)
    with locked(folder):
        known = _read_csv(downloads.obtain(f"{url}/{_PHENOTYPES}", f"{_SOURCE}/{_PHENOTYPES}"))
        labels = f"{parcels.upper()}_ROI_labels.csv"
        places = _read_places(downloads.obtain(f"{url}/Resources/{labels}", f"{_SOURCE}/{labels}"))
        names = {number: f"{parcels}-{number:03d}" for number in places}
        rows = [{"name": names[number], "x": x, "y": y, "z": z} for number, (x, y, z) in places.items()]
        write_text(folder / "channels.tsv", format_tsv(["name", "x", "y", "z"], rows))
        if not (folder / "governance.yaml").exists():
            write_text(folder / "governance.yaml", _GOVERNANCE)
        wanted = _wanted(known, quality_checked, sites)[:n_subjects]
        if not wanted:
            raise InputError(f"{folder}: no participant of ABIDE passes these filters; choose other sites, or quality_checked=False.")
        found, missing = [], []
        for row in track(wanted, "download"):
            address = f"{url}/Outputs/cpac/{strategy}/rois_{parcels}/{row['FILE_ID']}_rois_{parcels}.1D"
            try:
                found.append(_fetch_series(downloads, address, row, names))
            except NotOnServerError:
                missing.append(_subject(row))
        people = write_text(folder / "participants.tsv", _participants(folder, known))
    return FetchedDataset("abide-parcels", folder, tuple(found), people, tuple(missing))


def _fetch_series(downloads: Downloads, address: str, row: _Row, names: Mapping[int, str]) -> Path:
    file = _series_file(row)
    path = downloads.obtain(address, file, lambda part: _as_table(part, address, names))
    write_json(path.with_suffix(".json"), {"TaskName": "rest", "RepetitionTime": _TR_S[row["SITE_ID"]], "SourceURL": address})
    return path


def _wanted(known: Sequence[_Row], quality_checked: bool, sites: Sequence[str]) -> list[_Row]:
    """Rows with a recording, in the order of the file.

    Raises
    ------
    InputError
        If a site is not one of ABIDE's.
    """
    if unknown := sorted(set(sites) - set(_TR_S)):
        raise InputError(f"{unknown[0]}: is no site of ABIDE I; choose among {', '.join(sorted(_TR_S))}.")
    return [
        row
        for row in known
        if row["FILE_ID"] != _NO_FILE
        and (not sites or row["SITE_ID"] in sites)
        and (not quality_checked or all(row.get(column) in passed for column, passed in _QUALITY.items()))
    ]


def _read_csv(path: Path) -> list[_Row]:
    with open(path, encoding="utf-8-sig", newline="") as handle:
        rows = [{name: (cell or "").strip() for name, cell in row.items() if name} for row in csv.DictReader(handle)]
    # Identifiers become names of files, and sites say the TR.
    fit = [row for row in rows if row.get("SUB_ID", "").isdigit() and _FILE_ID.fullmatch(row.get("FILE_ID", ""))]
    if not rows or len(fit) < len(rows) or any(row.get("SITE_ID") not in _TR_S for row in rows):
        raise InputError(f"{path}: is not ABIDE's phenotype file (columns SUB_ID, FILE_ID, SITE_ID); delete it and fetch again.")
    return list(fit)


def _read_places(path: Path) -> dict[int, tuple[float, float, float]]:
    """MNI mm of each parcel by its number; the third cell of a line is `(x;y;z)`."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            lines = [line for line in csv.reader(handle, skipinitialspace=True) if line][1:]
        places = {}
        for number, _, centre, *_ in lines:
            x, y, z = map(float, centre.strip(" ()").split(";"))
            places[int(number)] = (x, y, z)
    except ValueError as error:
        raise InputError(
            f"{path}: is not a table of parcels (number, volume, centre of mass: {error}); delete it and fetch again."
        ) from error
    if not places:
        raise InputError(f"{path}: lists no parcel; delete it and fetch again.")
    return places


def _as_table(part: Path, address: str, names: Mapping[int, str]) -> str:
    """A `.1D` file (a header `#1`, `#2`, ..., then a line per frame) as a table with the parcels' names; numbers stay as written."""
    header, *lines = part.read_text(encoding="utf-8").splitlines() or [""]
    try:
        columns = [names[int(cell.strip("# "))] for cell in header.split("\t")]
        frames = [line.split("\t") for line in lines if line.strip()]
        if not frames or any(len(list(map(float, frame))) != len(columns) for frame in frames):
            raise ValueError("lines of unequal length")
    except (ValueError, KeyError) as error:
        raise InputError(f"{address}: is not the series of {len(names)} parcels ({error}); see whether the file changed.") from error
    return "\n".join("\t".join(map(str.strip, cells)) for cells in (columns, *frames)) + "\n"


def _subject(row: _Row) -> str:
    return f"sub-{int(row['SUB_ID'])}"


def _series_file(row: _Row) -> str:
    return f"{_subject(row)}/func/{_subject(row)}_task-rest_timeseries.tsv"


def _participants(folder: Path, known: Sequence[_Row]) -> str:
    """All whose series are in the folder, also from earlier calls."""
    rows = []
    for row in known:
        if (folder / _series_file(row)).is_file():
            told = {"participant_id": _subject(row)}
            for name, (column, codes) in _COLUMNS.items():
                cell = row.get(column, "")
                told[name] = MISSING if cell in _NOTHING else codes.get(cell, MISSING) if codes else cell
            rows.append(told)
    return format_tsv(["participant_id", *_COLUMNS], rows)
