"""Small phenotype files with the columns that the cohorts publish, and stores whose participants they list."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

COLUMNS: Mapping[str, Sequence[str]] = {
    "hcp": ("Subject", "Release", "Acquisition", "Gender", "Age", "3T_Full_MR_Compl", "3T_RS-fMRI_PctCompl", "QC_Issue"),
    "hcp-restricted": (
        *("Subject", "Age_in_Yrs", "HasGT", "ZygositySR", "ZygosityGT", "Family_ID", "Mother_ID", "Father_ID", "TestRetestInterval"),
        *("Race", "Ethnicity", "Handedness", "SSAGA_Employ", "SSAGA_Income", "SSAGA_Educ", "Height", "Weight", "BMI"),
    ),
    "adni": ("RID", "COLPROT", "ORIGPROT", "PTID", "SITE", "VISCODE", "EXAMDATE", "DX_bl", "AGE", "PTGENDER", "APOE4", "DX"),
    "adhd200": (
        *("ScanDir ID", "Site", "Gender", "Age", "Handedness", "DX", "Secondary Dx ", "ADHD Measure", "ADHD Index", "Inattentive"),
        *("Hyper/Impulsive", "IQ Measure", "Verbal IQ", "Performance IQ", "Full2 IQ", "Full4 IQ", "Med Status", "QC_Rest_1", "QC_Rest_2"),
        *("QC_Rest_3", "QC_Rest_4", "QC_Anatomical_1", "QC_Anatomical_2"),
    ),
    "ppmi": ("PATNO", "COHORT", "COHORT_DEFINITION", "ENROLL_DATE", "ENROLL_STATUS", "STATUS_DATE", "ENROLL_AGE"),
    "abide": ("", "Unnamed: 0", "SUB_ID", "X", "subject", "SITE_ID", "FILE_ID", "DX_GROUP", "DSM_IV_TR", "AGE_AT_SCAN", "SEX"),
}
"""As they stand in the first lines of the files; `slimbrain evaluate --list` says where each was looked up."""


def write_phenotypes(path: Path, cohort: str, rows: Sequence[Mapping[str, object]], encoding: str = "utf-8") -> Path:
    """A file with all of the cohort's columns; cells that a row does not give stay empty."""
    unknown = {name for row in rows for name in row} - set(COLUMNS[cohort])
    assert not unknown, unknown
    with open(path, "w", encoding=encoding, newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS[cohort], restval="", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_store(root: Path, sessions: Sequence[tuple[str, ...]], seed: int = 0, frames: int = 12, channels: int = 3) -> Store:
    """Noise for each (sub, ses, task, run); later places may be left out."""
    store = Store.create(root, None, 0.72)
    rng = np.random.default_rng(seed)
    names = Channels(tuple(f"c{number}" for number in range(channels)), np.zeros((channels, 3)))
    for session in sessions:
        entities = dict(zip(("sub", "ses", "task", "run"), (*session, *("", "rest", "")[len(session) - 1 :]), strict=True))
        series = rng.normal(size=(frames, channels)).astype(np.float32)
        write_roi_session(store, {name: label for name, label in entities.items() if label}, series, names, 0.72)
    return Store(root)
