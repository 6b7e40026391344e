"""The published benchmarks, one declarative entry each: whose data, which columns, how the label is made, what was reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slimbrain.evaluate.labels import (
    Label,
    abide_age,
    abide_age_class,
    abide_diagnosis,
    abide_sex,
    adhd200_diagnosis,
    adni_mci,
    hcp_sex,
    ppmi_diagnosis,
)
from slimbrain.evaluate.phenotypes import Cohort
from slimbrain.evaluate.stats import IDENTIFICATION_METRICS

TaskKind = Literal["classification", "regression", "identification"]

_CLASSIFIED = ("accuracy", "balanced_accuracy", "macro_f1", "auc")
_REGRESSED = ("mse_z", "mae", "mse", "r", "r2")


_PAPER = "arXiv 2512.21881"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes
    ----------
    name : str
        What the user types.
    title : str
        The label in words.
    cohort : Cohort
        Whose data.
    kind : TaskKind
        Classification, regression or identification.
    columns : tuple[str, ...]
        Those of the phenotype file that the label is made of.
    label : Label or None
        Makes it; None for identification, where the label is the participant.
    made : str
        How, in words.
    exclusions : tuple[str, ...]
        Who is left out, in words; what happens in a run is counted in its result.
    primary : str
        The metric that ranks models: the published one.
    metrics : tuple[str, ...]
        All that are reported.
    published : Mapping[str, float]
        Values of the paper by metric; after a comma, how they differ from the plain case.
    unsaid : str
        What the paper, as far as it is available to us, does not say, and what is done here.
    hides : tuple[str, ...]
        Confounds that would give the label away.
    seeds : tuple[int, ...]
        One split each.
    """

    name: str
    title: str
    cohort: Cohort
    kind: TaskKind
    columns: tuple[str, ...]
    label: Label | None
    made: str
    exclusions: tuple[str, ...]
    primary: str
    metrics: tuple[str, ...]
    published: Mapping[str, float] = field(default_factory=dict)
    unsaid: str = ""
    hides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


HCP = Cohort(
    name="HCP",
    title="Human Connectome Project, Young Adult, S1200",
    file="unrestricted_*.csv",
    ids=("Subject",),
    prefixes=("hcp",),
    bids={"Gender": "sex", "Age": "age"},
    age="Age",
    sex="Gender",
    relatives=("Family_ID", "Mother_ID", "Father_ID"),
    relatives_file="RESTRICTED_*.csv",
    where="https://db.humanconnectome.org (WU-Minn HCP Data, 1200 Subjects: behavioural data, open access)",
    terms="account, and the WU-Minn HCP Open Access Data Use Terms accepted; age in years and family are restricted",
    sources=(
        "https://www.humanconnectome.org/study/hcp-young-adult/document/quick-reference-open-access-vs-restricted-data",
        "https://jese11.github.io/HCP-wiki-public/docs/How%20to%20Access%20Data%20on%20ConnectomeDB.html",
        "https://github.com/nicholst/HCPutils (Family_ID, Mother_ID, Father_ID, ZygositySR, ZygosityGT)",
    ),
)
_ADNI = Cohort(
    name="ADNI",
    title="Alzheimer's Disease Neuroimaging Initiative",
    file="ADNIMERGE*.csv",
    ids=("PTID", "RID"),
    prefixes=("adni",),
    site="SITE",
    age="AGE",
    sex="PTGENDER",
    where="https://ida.loni.usc.edu (ADNI, Download, Study Data)",
    terms="application, and the ADNI Data Use Agreement: no passing on of participants' data, no tools that send them elsewhere",
    sources=("https://adni.loni.usc.edu/help-faqs/faqs", "https://ida.loni.usc.edu/collaboration/access/appApply.jsp?project=ADNI"),
)
_ADHD200 = Cohort(
    name="ADHD-200",
    title="ADHD-200 Sample",
    file="*_phenotypic.csv",
    ids=("ScanDir ID",),
    prefixes=("adhd200", "adhd"),
    site="Site",
    age="Age",
    sex="Gender",
    where="http://fcon_1000.projects.nitrc.org/indi/adhd200 (one file per site; give --phenotypes once for each)",
    terms="registration with NITRC and the 1000 Functional Connectomes Project; research that is not commercial",
    sources=(
        "http://fcon_1000.projects.nitrc.org/indi/adhd200/",
        "https://nilearn.github.io/stable/modules/generated/nilearn.datasets.fetch_adhd.html",
    ),
)
_PPMI = Cohort(
    name="PPMI",
    title="Parkinson's Progression Markers Initiative",
    file="Participant_Status*.csv",
    ids=("PATNO",),
    prefixes=("ppmi", "patno"),
    age="ENROLL_AGE",
    where="https://www.ppmi-info.org/access-data-specimens/download-data (Study Data, Subject Characteristics)",
    terms="application, and the PPMI Data Use Agreement: no passing on of participants' data, no tools that send them elsewhere",
    sources=(
        "PPMI Data User Guide of August 2024, sections 3.1 to 3.4",
        "https://ida.loni.usc.edu/collaboration/access/appApply.jsp?project=PPMI",
    ),
)
_ABIDE = Cohort(
    name="ABIDE",
    title="Autism Brain Imaging Data Exchange I and II",
    file="Phenotypic_V1_0b_preprocessed1.csv",
    ids=("SUB_ID", "FILE_ID"),
    prefixes=("abideii", "abidei", "abide"),
    bids={"SITE_ID": "site", "AGE_AT_SCAN": "age", "SEX": "sex", "DX_GROUP": "diagnosis"},
    site="SITE_ID",
    age="AGE_AT_SCAN",
    sex="SEX",
    where="http://preprocessed-connectomes-project.org/abide/download.html (I); http://fcon_1000.projects.nitrc.org/indi/abide (II)",
    terms="research that is not commercial (CC BY-NC-SA 3.0); registration with NITRC and the 1000 Functional Connectomes Project for II",
    sources=(
        "http://preprocessed-connectomes-project.org/abide/download.html",
        "https://raw.githubusercontent.com/preprocessed-connectomes-project/abide/master/Phenotypic_V1_0b_preprocessed1.csv",
        "https://nilearn.github.io/stable/modules/generated/nilearn.datasets.fetch_abide_pcp.html",
    ),
)

_ENTRIES = (
    Benchmark(
        name="hcp-sex",
        title="sex",
        cohort=HCP,
        kind="classification",
        columns=("Gender",),
        label=hcp_sex,
        made="Gender, F or M",
        exclusions=("no line in the file", "Gender missing"),
        primary="accuracy",
        metrics=_CLASSIFIED,
        published={"accuracy": 0.911, "macro_f1": 0.911, "accuracy, frozen": 0.906, "macro_f1, frozen": 0.905},
        unsaid="Whether relatives were kept on one side: HCP is made of families, and who belongs to which is restricted data. Here they "
        "are where the restricted file is given, too; without it the result says that figures may profit from twins on both sides.",
        hides=("sex", "gender"),
    ),
    Benchmark(
        name="hcp-fingerprint",
        title="participant",
        cohort=HCP,
        kind="identification",
        columns=(),
        label=None,
        made="the participant, found again from another session; top1 is what the paper calls accuracy",
        exclusions=("task-based runs", "participants with one session"),
        primary="top1",
        metrics=IDENTIFICATION_METRICS,
        published={"top1": 0.985, "macro_f1": 0.981},
        unsaid="Which sessions were compared, and whether a classifier was trained on all participants. Here nothing is trained on the "
        "participants: one session is to find the other among all.",
    ),
    Benchmark(
        name="adni-mci",
        title="mild cognitive impairment or cognitively normal",
        cohort=_ADNI,
        kind="classification",
        columns=("VISCODE", "DX"),
        label=adni_mci,
        made="DX at the visit that the session is named after (ses-M012 is m12): CN or MCI; that of all visits where the name tells none",
        exclusions=(
            "no line in the file or for the visit",
            "DX missing",
            "DX is Dementia",
            "DX differs over visits and the session names none",
            "DX differs from that of the participant's first session",
        ),
        primary="accuracy",
        metrics=_CLASSIFIED,
        published={"accuracy": 0.6912, "macro_f1": 0.6896, "accuracy, frozen": 0.6666, "macro_f1, frozen": 0.6452},
        unsaid="Which classes, from which column (DX, or DX_bl with its EMCI and LMCI), at which visit, and how many sessions of a "
        "participant. DX at the visit of the scan is taken here, since DX_bl may be years older than the scan.",
    ),
    Benchmark(
        name="adhd200",
        title="ADHD or control",
        cohort=_ADHD200,
        kind="classification",
        columns=("DX",),
        label=adhd200_diagnosis,
        made="DX: 0 is control; 1 (combined), 2 (hyperactive-impulsive) and 3 (inattentive) are ADHD",
        exclusions=("no line in the file", "DX withheld (pending) or missing", "QC_Rest_N of the run is 0 (questionable)"),
        primary="accuracy",
        metrics=_CLASSIFIED,
        published={"accuracy": 0.6353},
        unsaid="Whether the types of ADHD were told apart, and whether runs of questionable quality took part. Here the types are taken "
        "together, and such runs are left out.",
    ),
    Benchmark(
        name="ppmi",
        title="Parkinson's disease or healthy control",
        cohort=_PPMI,
        kind="classification",
        columns=("COHORT_DEFINITION", "ENROLL_STATUS"),
        label=ppmi_diagnosis,
        made="COHORT_DEFINITION: Parkinson's Disease or Healthy Control. The numbers in COHORT are not read: the user guide lists the "
        "cohorts in another order than its tables number them",
        exclusions=(
            "no line in the file",
            "other cohorts (Prodromal, SWEDD, Early Imaging)",
            "ENROLL_STATUS of those who never had a visit (pending, screened, declined, screen failed, excluded)",
        ),
        primary="accuracy",
        metrics=_CLASSIFIED,
        published={"accuracy": 0.704},
        unsaid="Which cohorts were told apart: here these two. The file names no site, so that splits balance the label alone.",
    ),
    Benchmark(
        name="abide-age-class",
        title="age class",
        cohort=_ABIDE,
        kind="classification",
        columns=("AGE_AT_SCAN",),
        label=abide_age_class,
        made="AGE_AT_SCAN in completed years: child to 12, adolescent 13 to 18, adult from 19",
        exclusions=("no line in the file", "AGE_AT_SCAN missing"),
        primary="accuracy",
        metrics=_CLASSIFIED,
        published={"accuracy": 0.6441},
        unsaid="How many classes and where they begin; the published code reads a column age_group that was made before. Bounds here are "
        "those of MEDLINE's age groups, fixed beforehand: terciles would be a statistic of the test participants too.",
        hides=("age",),
    ),
    Benchmark(
        name="abide-age",
        title="age in years",
        cohort=_ABIDE,
        kind="regression",
        columns=("AGE_AT_SCAN",),
        label=abide_age,
        made="AGE_AT_SCAN",
        exclusions=("no line in the file", "AGE_AT_SCAN missing"),
        primary="mse_z",
        metrics=_REGRESSED,
        published={"mse_z": 0.2175},
        unsaid="Over whom the z-scores were taken. Here mean and standard deviation are those of the training participants of each split.",
        hides=("age",),
    ),
    Benchmark(
        name="abide-diagnosis",
        title="autism or control",
        cohort=_ABIDE,
        kind="classification",
        columns=("DX_GROUP",),
        label=abide_diagnosis,
        made="DX_GROUP: 1 is autism, 2 is control",
        exclusions=("no line in the file", "DX_GROUP missing"),
        primary="accuracy",
        metrics=_CLASSIFIED,
        unsaid=f"Not among the benchmarks of {_PAPER}; it is there because most of the literature on ABIDE reports it.",
    ),
    Benchmark(
        name="abide-sex",
        title="sex",
        cohort=_ABIDE,
        kind="classification",
        columns=("SEX",),
        label=abide_sex,
        made="SEX: 1 is male, 2 is female",
        exclusions=("no line in the file", "SEX missing"),
        primary="auc",
        metrics=_CLASSIFIED,
        unsaid=f"Not among the benchmarks of {_PAPER}. Five of six participants are male, so that ranking is by AUC: accuracy rewards "
        "whoever always says so.",
        hides=("sex",),
    ),
)

ENTRIES: Mapping[str, Benchmark] = {entry.name: entry for entry in _ENTRIES}
