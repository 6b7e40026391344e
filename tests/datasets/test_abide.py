"""ABIDE's parcels from a small bucket laid out as the real one: what prep makes of them, what is resumed, what is refused."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Bucket, serving

from slimbrain.datasets import FetchedDataset, download, fetch_abide_parcels
from slimbrain.errors import InputError
from slimbrain.prep import PrepOptions, prepare
from slimbrain.store import Store

PARCELS, FRAMES = 200, 20
PLACES = np.random.default_rng(1).integers(-600, 600, (PARCELS, 3)) / 10
OK = {"qc_rater_1": "OK", "qc_anat_rater_2": "maybe", "qc_func_rater_2": "OK", "qc_anat_rater_3": "OK", "qc_func_rater_3": "OK"}
PEOPLE = (
    {"SUB_ID": "50002", "FILE_ID": "no_filename", "SITE_ID": "PITT", "SEX": "1", "AGE_AT_SCAN": "16", **OK},
    {
        "SUB_ID": "50003",
        "FILE_ID": "Pitt_0050003",
        "SITE_ID": "PITT",
        "SEX": "1",
        "AGE_AT_SCAN": "24.45",
        "DX_GROUP": "1",
        "FIQ": "-9999",
        **OK,
    },
    {
        "SUB_ID": "50004",
        "FILE_ID": "Pitt_0050004",
        "SITE_ID": "PITT",
        "SEX": "2",
        "AGE_AT_SCAN": "19",
        "DX_GROUP": "2",
        **OK,
        "qc_rater_1": "fail",
    },
    {"SUB_ID": "50953", "FILE_ID": "NYU_0050953", "SITE_ID": "NYU", "SEX": "2", "AGE_AT_SCAN": "9", "DX_GROUP": "2", "FIQ": "104", **OK},
    {"SUB_ID": "50954", "FILE_ID": "NYU_0050954", "SITE_ID": "NYU", "SEX": "1", "AGE_AT_SCAN": "9", "DX_GROUP": "2", **OK},
)
"""One without a file, one whom a rater failed, one whose file the bucket lacks."""
LOST = "NYU_0050954"
OUTPUTS = "/Outputs/cpac/nofilt_noglobal/rois_cc200"


def course(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((FRAMES, PARCELS))


def as_1d(values: np.ndarray) -> bytes:
    header = "\t".join(f"#{number}" for number in range(1, PARCELS + 1))
    return "\n".join([header, *("\t".join(map(repr, map(float, row))) for row in values)]).encode() + b"\n"


def phenotypes() -> bytes:
    more = {"func_mean_fd": "0.12", "EYE_STATUS_AT_SCAN": "2", "HANDEDNESS_CATEGORY": "", "NOTES": "a, b"}
    columns = dict.fromkeys(name for row in (*PEOPLE, more) for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="")
    writer.writeheader()
    writer.writerows({**row, **more} for row in PEOPLE)
    return text.getvalue().encode()


def labels() -> bytes:
    lines = [f'{n}, 162, ({x};{y};{z}),["""Left": 1],"[(""None"", 0.1)]"' for n, (x, y, z) in enumerate(PLACES.tolist(), start=1)]
    return "\n".join(["ROI number, volume, center of mass,AAL,MNI", *lines]).encode()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_WAIT_S", 0.0)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    files = {"/Phenotypic_V1_0b_preprocessed1.csv": phenotypes(), "/Resources/CC200_ROI_labels.csv": labels()}
    for row in PEOPLE:
        if row["FILE_ID"] not in ("no_filename", LOST):
            files[f"{OUTPUTS}/{row['FILE_ID']}_rois_cc200.1D"] = as_1d(course(int(row["SUB_ID"])))
    with serving(Bucket(files)) as started:
        yield started


def fetch(bucket: Bucket, folder: Path, n_subjects: int | None = None, **options: object) -> FetchedDataset:
    return fetch_abide_parcels(n_subjects, folder, url=bucket.url, **options)


def test_prep_reads_the_folder_as_it_is(bucket: Bucket, tmp_path: Path) -> None:
    fetched = fetch(bucket, tmp_path)
    assert [path.name[:9] for path in fetched.recordings] == ["sub-50003", "sub-50953"] and fetched.missing == ("sub-50954",)
    summary = prepare(fetched.source, tmp_path / "store", PrepOptions())
    assert summary.failures == []
    store = Store(tmp_path / "store")
    assert [(info.subject, info.task) for info in store.sessions] == [("sub-50003", "rest"), ("sub-50953", "rest")]
    first, second = (info.key for info in store.sessions)
    np.testing.assert_allclose(store.channels(first).mm, PLACES, atol=1e-4)
    assert store.channels(first).names[:2] == ("cc200-001", "cc200-002")
    sidecars = [store.sidecar(key)["SourceRepetitionTime"] for key in (first, second)]
    assert sidecars == [1.5, 2.0]
    # 20 frames of 1.5 s are brought to 0.72 s: the first frame stays, and series agree with the source where the times meet.
    values = course(50003)
    expected = (values - values.mean(0)) / values.std(0)
    assert np.corrcoef(store.coarse(first)[0], expected[0])[0, 1] > 0.9
    person = store.participants["sub-50003"]
    assert (person["sex"], person["age"], person["diagnosis"], person["site"], person["eyes"]) == ("M", "24.45", "autism", "PITT", "closed")
    assert person["fiq"] == person["handedness"] == "n/a" and person["fd_mean"] == "0.12"
    told = store.governance(store.session(first))
    assert (told.cohort, told.licence) == ("ABIDE I", "CC-BY-NC-SA-3.0")


def test_numbers_are_those_of_the_source(bucket: Bucket, tmp_path: Path) -> None:
    path = fetch(bucket, tmp_path).recordings[0]
    np.testing.assert_array_equal(np.loadtxt(path, skiprows=1), course(50003))


def test_a_second_call_asks_for_nothing_and_a_larger_one_for_the_rest(bucket: Bucket, tmp_path: Path) -> None:
    assert len(fetch(bucket, tmp_path, 1).recordings) == 1
    bucket.requests.clear()
    assert len(fetch(bucket, tmp_path, 1).recordings) == 1 and bucket.requests == []
    assert len(fetch(bucket, tmp_path, 2).recordings) == 2
    assert [path for path, _ in bucket.requests] == [f"{OUTPUTS}/NYU_0050953_rois_cc200.1D"]
    rows = (tmp_path / "abide-cc200" / "participants.tsv").read_text().splitlines()
    assert [row[:9] for row in rows[1:]] == ["sub-50003", "sub-50953"]


def test_an_interrupted_fetch_resumes(bucket: Bucket, tmp_path: Path) -> None:
    bucket.broken[f"{OUTPUTS}/NYU_0050953_rois_cc200.1D"] = 99
    with pytest.raises(InputError, match="run the same again, which resumes"):
        fetch(bucket, tmp_path)
    folder = tmp_path / "abide-cc200"
    assert (folder / "sub-50003").is_dir() and not list(folder.rglob("sub-50953*_timeseries.tsv"))
    bucket.broken.clear()
    bucket.requests.clear()
    assert len(fetch(bucket, tmp_path).recordings) == 2
    assert bucket.requests[0][0].endswith("NYU_0050953_rois_cc200.1D") and bucket.requests[0][1].startswith("bytes=")


def test_filters(bucket: Bucket, tmp_path: Path) -> None:
    assert [path.name[:9] for path in fetch(bucket, tmp_path, sites=("NYU",)).recordings] == ["sub-50953"]
    assert len(fetch(bucket, tmp_path, quality_checked=False).recordings) == 3
    with pytest.raises(InputError, match="HARVARD: is no site of ABIDE I; choose among CALTECH"):
        fetch(bucket, tmp_path, sites=("HARVARD",))
    with pytest.raises(InputError, match="no participant of ABIDE passes"):
        fetch(bucket, tmp_path, sites=("YALE",))
    # Another way of cleaning goes into a folder of its own.
    assert fetch(bucket, tmp_path, global_signal_regression=True).source == tmp_path / "abide-cc200-nofilt_global"


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        (f"{OUTPUTS}/Pitt_0050003_rois_cc200.1D", b"<html>Please log in</html>", "is not the series of 200 parcels"),
        (f"{OUTPUTS}/Pitt_0050003_rois_cc200.1D", as_1d(course(1))[:-30], "is not the series of 200 parcels"),
        ("/Resources/CC200_ROI_labels.csv", b"<html></html>\nx", "is not a table of parcels"),
        ("/Phenotypic_V1_0b_preprocessed1.csv", b"<html></html>\nx", "is not ABIDE's phenotype file"),
        (
            "/Phenotypic_V1_0b_preprocessed1.csv",
            phenotypes().replace(b"Pitt_0050003", b"../../evil"),
            "is not ABIDE's phenotype file",
        ),
    ],
)
def test_what_the_server_should_not_send_is_refused(bucket: Bucket, tmp_path: Path, path: str, content: bytes, words: str) -> None:
    bucket.files[path] = content
    with pytest.raises(InputError, match=words):
        fetch(bucket, tmp_path)
    assert not list(tmp_path.rglob("sub-50003*_timeseries.tsv"))
