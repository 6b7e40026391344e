"""What public cohorts there are, how to get them, and which command follows; facts with their sources, no data."""

from __future__ import annotations

from dataclasses import dataclass

_ABIDE_TERMS = "research that is not commercial; CC BY-NC-SA 3.0 is the strictest reading (docs/ledger.md)"
_ABIDE_SOURCES = (
    "http://preprocessed-connectomes-project.org/abide/download.html",
    "https://nilearn.github.io/stable/modules/generated/nilearn.datasets.fetch_abide_pcp.html",
)
_INDI_TERMS = "research that is not commercial (1000 Functional Connectomes Project)"


@dataclass(frozen=True)
class PublicDataset:
    """A cohort that anybody may get.

    Attributes
    ----------
    name, title : str
        As `slimbrain datasets` calls it, and in full.
    holds : str
        Participants and recordings.
    size : str
        About how much is downloaded.
    account : str
        Empty where none is needed; else which.
    terms : str
        Under which terms.
    steps : tuple of str
        How to get it, in order.
    prep : tuple of str
        Commands that make a store of it.
    fetcher : str
        Function of `slimbrain.datasets` that downloads it; empty where none can.
    sources : tuple of str
        Where this was looked up.

    Examples
    --------
    >>> [dataset.name for dataset in CATALOGUE.values() if dataset.fetcher]
    ['abide-parcels', 'development-fmri']
    """

    name: str
    title: str
    holds: str
    size: str
    account: str
    terms: str
    steps: tuple[str, ...]
    prep: tuple[str, ...]
    fetcher: str = ""
    sources: tuple[str, ...] = ()


_ENTRIES = (
    PublicDataset(
        name="abide-parcels",
        title="ABIDE I, parcel series (Preprocessed Connectomes Project)",
        holds="about 870 people of 20 sites at rest, autism or control, 200 or 392 parcels; age, sex, site, IQ, motion",
        size="about 0.5 MB per person",
        account="",
        terms=_ABIDE_TERMS,
        steps=("slimbrain datasets abide-parcels --fetch --data-dir data/",),
        prep=("slimbrain prep data/abide-cc200 abide/ participant",),
        fetcher="fetch_abide_parcels",
        sources=_ABIDE_SOURCES,
    ),
    PublicDataset(
        name="abide",
        title="ABIDE I, volumes (Preprocessed Connectomes Project, C-PAC)",
        holds="1,035 people of 20 sites at rest, 3 mm; the same people as abide-parcels and more",
        size="about 0.1 GB per person",
        account="",
        terms=_ABIDE_TERMS,
        steps=(
            "in Python: nilearn.datasets.fetch_abide_pcp(data_dir='data', pipeline='cpac', derivatives='func_preproc', "
            "band_pass_filtering=False, global_signal_regression=False)",
            "phenotypes: data/ABIDE_pcp/Phenotypic_V1_0b_preprocessed1.csv, for slimbrain evaluate --phenotypes",
        ),
        prep=("slimbrain prep data/ABIDE_pcp/cpac/nofilt_noglobal abide/ participant --layout cpac --license CC-BY-NC-SA-3.0",),
        sources=_ABIDE_SOURCES,
    ),
    PublicDataset(
        name="adhd200",
        title="ADHD-200 (Athena pipeline)",
        holds="973 people of 8 sites at rest, ADHD or control; age, sex, IQ",
        size="one archive per site, tens of GB in all",
        account="NITRC, free, and registration with the 1000 Functional Connectomes Project",
        terms=_INDI_TERMS,
        steps=(
            "register at https://www.nitrc.org and http://fcon_1000.projects.nitrc.org/indi/adhd200",
            "download the Athena archives (preprocessed, with snwmrda or sfnwmrda images) of each site, and its *_phenotypic.csv",
            "unpack each site into a folder of its own, such as NYU/",
        ),
        prep=("slimbrain prep NYU/ adhd/ participant --layout adhd200",),
        sources=("http://fcon_1000.projects.nitrc.org/indi/adhd200/", "http://www.nitrc.org/frs/?group_id=383"),
    ),
    PublicDataset(
        name="hcp",
        title="Human Connectome Project, Young Adult, S1200",
        holds="about 1,000 people x 4 runs of 1,200 frames at rest over two days, 2 mm, TR 0.72 s; age in bands, sex, tests",
        size="about 1 GB per run",
        account="ConnectomeDB, free, with the Open Access Data Use Terms accepted",
        terms="WU-Minn HCP Open Access Data Use Terms; age in years and family are restricted",
        steps=(
            "make an account at https://db.humanconnectome.org and accept the terms of 'WU-Minn HCP Data - 1200 Subjects'",
            "download 'Resting State fMRI FIX-Denoised (Compact)', or enable Amazon S3 access there and copy "
            "SUBJECT/MNINonLinear/Results/rfMRI_REST*/*_hp2000_clean.nii.gz from s3://hcp-openaccess/HCP_1200",
            "behavioural data: unrestricted_*.csv, for slimbrain evaluate --phenotypes",
        ),
        prep=("slimbrain prep HCP_1200/ hcp/ participant --layout hcp --license HCP-Open-Access-DUT",),
        sources=(
            "https://jese11.github.io/HCP-wiki-public/docs/How%20to%20Access%20Data%20on%20ConnectomeDB.html",
            "https://github.com/datalad-datasets/human-connectome-project-openaccess",
        ),
    ),
    PublicDataset(
        name="development-fmri",
        title="development_fmri of nilearn (OpenNeuro ds000228, prepared)",
        holds="122 children and 33 adults who watch a film of 168 frames, 4 mm, TR 2 s; age, sex",
        size="4 mm images, some 10 MB per person",
        account="",
        terms="research that is not commercial, as nilearn says",
        steps=("slimbrain datasets development-fmri --fetch --data-dir data/",),
        prep=("slimbrain prep data/development_fmri/slimbrain/images.tsv development/ participant --resolution 4mm",),
        fetcher="fetch_development_fmri",
        sources=("https://nilearn.github.io/stable/modules/generated/nilearn.datasets.fetch_development_fmri.html",),
    ),
)

CATALOGUE = {dataset.name: dataset for dataset in _ENTRIES}
