"""The section to paste into a paper: what was done, as the files record it, and what to cite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from slimbrain import __version__
from slimbrain.evaluate.result import IDENTIFY, Result
from slimbrain.evaluate.stats import REGRESSION_METRICS, metric_words
from slimbrain.evaluate.table import resampling_unit
from slimbrain.evaluate.tasks import label_name
from slimbrain.governance.ledger import LEDGER
from slimbrain.models.card import LICENCE
from slimbrain.models.hub import read_training, weights_sha256
from slimbrain.models.shipped import TEMPORAL, shipped_folder
from slimbrain.report.blocks import Block, Code, Fold, Prose, Section, count
from slimbrain.report.explained import averages
from slimbrain.report.inputs import Material
from slimbrain.report.recorded import RunRecord
from slimbrain.report.references import (
    FD,
    FINGERPRINT,
    HIERA,
    INPUT_GRADIENT,
    INTEGRATED,
    JEPA,
    LEDOIT,
    OCCLUSION,
    PAPER,
    SCIPY,
    SKLEARN,
    SOFTWARE,
    TEMPLATE,
    TORCH,
    Reference,
)
from slimbrain.store import ROI

_TITLE = "Methods, to paste"

_Part = tuple[str, tuple[Reference, ...]]
"""Sentences, and what they cite."""


def build(material: Material) -> Section:
    """One paragraph and its references, for as much as was given."""
    told = (_data(material), *map(_run, material.runs), _windows(material), _evaluations(material), _explanations(material))
    parts = [part for part in told if part[0]]
    if not parts:
        return Section(
            "methods",
            _TITLE,
            absent="nothing was given to describe; --store, --windows, --run, --evaluation and --explained add sentences.",
        )
    text = " ".join(words for words, _ in parts)
    cited = list(dict.fromkeys([PAPER, SOFTWARE, *(reference for _, references in parts for reference in references)]))
    blocks: list[Block] = [
        Prose(
            "Written from what the files record. Read it before it goes into a paper: how participants were recruited, scanned and "
            "preprocessed is not known here."
        ),
        Code("Methods", (text,), prose=True),
        Fold("References", (Code("References, BibTeX", tuple("\n".join(reference.bibtex for reference in cited).split("\n"))),)),
    ]
    return Section("methods", _TITLE, tuple(blocks))


def _data(material: Material) -> _Part:
    store = material.store
    if store is None or not material.sessions:
        return "", ()
    subjects = {session.info.subject for session in material.sessions}
    tasks = _listed({session.info.task.removeprefix("task-") for session in material.sessions} - {""})
    who = f"{count(len(material.sessions), 'functional MRI session')} of {count(len(subjects), 'participant')}"
    words = [f"We analysed {who}{f' (task {tasks})' if tasks else ''} with slimbrain {__version__} ({SOFTWARE.cite}), "]
    words[0] += f"an independent implementation of SLIM-Brain ({PAPER.cite})."
    cited: list[Reference] = []
    if store.contract.lattice == ROI:
        recorded = sorted({session.source_tr for session in material.sessions})
        span = f"{recorded[0]:g} s" if len(recorded) == 1 else f"{recorded[0]:g} to {recorded[-1]:g} s"
        words.append(f"Series of regions of interest had a repetition time of {span}.")
    else:
        words.append(_space(material))
        cited.append(TEMPLATE)
    words.append(_time(material))
    if motion := [session.qc["fd_mean"] for session in material.sessions if "fd_mean" in session.qc]:
        spread = f" (SD {np.std(motion, ddof=1):.2f})" if len(motion) > 1 else ""
        words.append(f"Mean framewise displacement ({FD.cite}) was {np.mean(motion):.2f} mm{spread}.")
        cited.append(FD)
    if material.excluded:
        measures = _listed({row["measure"].replace("_", " ") for row in material.excluded})
        left_out = len({row["session"] for row in material.excluded})
        words.append(f"{count(left_out, 'run was', 'runs were')} excluded by a threshold on {measures}.")
    if material.failures:
        words.append(f"{count(len(material.failures), 'run', 'runs')} could not be used.")
    return " ".join(words), tuple(cited)


def _space(material: Material) -> str:
    assert material.store is not None
    grid, templates = material.store.grid, _listed({session.info.space for session in material.sessions} - {ROI})
    lattice = grid.lattice
    return (
        f"Images normalised to {templates} ({TEMPLATE.cite}) were resampled to a lattice of "
        f"{lattice.edge} x {lattice.edge} x {lattice.edge} voxels of {lattice.voxel_mm:g} mm, of which {grid.n_voxels:,} lie within the "
        "brain mask."
    )


def _time(material: Material) -> str:
    """Resampling in time, nuisance regression, z-scores; each as recorded, with the number of sessions where they differ."""
    assert material.store is not None
    resampled = sum(session.resampling not in ("", "none") for session in material.sessions)
    denoised = {session.denoise for session in material.sessions} - {"", "none"}
    parts = []
    if resampled:
        how = _listed({session.resampling for session in material.sessions} - {"", "none"})
        parts.append(f"{count(resampled, 'series was', 'series were')} resampled to {material.store.contract.tr:g} s per frame by {how}")
    if denoised:
        n = sum(session.denoise in denoised for session in material.sessions)
        parts.append(f"confounds were regressed out of {count(n, 'session')} (nilearn's strategy {_listed(denoised)})")
    elif all(session.denoise == "none" for session in material.sessions):
        parts.append("no confounds were regressed out")
    if material.store.contract.lattice != ROI:
        parts.append("each voxel's series was z-scored over time")
    text = _listed(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _run(run: RunRecord) -> _Part:
    if run.stage == "temporal":
        what = f"A temporal extractor (stage 1 of {PAPER.cite}) was trained by masked reconstruction of whole sessions at low resolution"
        cited: tuple[Reference, ...] = (TORCH,)
    elif run.stage == "voxel":
        encoder, signals = (
            f"A four-dimensional hierarchical encoder ({HIERA.cite}) was trained",
            run.settings.preset.jepa.targets == "signals",
        )
        if signals:
            what, cited = (
                f"{encoder} to predict the signals of hidden parts of the brain from the visible ones, after {PAPER.cite}",
                (HIERA, TORCH),
            )
        else:
            what, cited = f"{encoder} with a joint-embedding predictive objective ({JEPA.cite})", (HIERA, JEPA, TORCH)
    else:
        return "", ()
    settings, train = run.settings, run.settings.train
    steps = run.series("loss")[0]
    facts = [
        count(settings.sessions, "session") if settings.sessions is not None else "",
        count(int(steps[-1]) + 1, "step") if steps else "",
        f"{train.batch * train.accumulate} sessions per step" if train.batch is not None else "",
        f"AdamW, peak learning rate {train.lr:g}" if train.lr is not None else "",
        f"preset {settings.preset.name}" if settings.preset.name else "",
        f"seed {settings.seed}" if settings.seed is not None else "",
    ]
    told = "; ".join(fact for fact in facts if fact)
    return f"{what}{f' ({told})' if told else ''}, in PyTorch ({TORCH.cite}).", cited


def _windows(material: Material) -> _Part:
    if not material.windows:
        return "", ()
    seconds = _listed({f"{rows[0].duration_s:.2f}" for rows in material.windows.values()})
    n_windows = sum(map(len, material.windows.values()))
    words = (
        f"{count(n_windows, 'window')} of {seconds} s of {count(len(material.windows), 'session')} were scored by mutual masked "
        f"reconstruction and ranked; the {material.k} best of each session were used where windows were chosen."
    )
    return words, ()


def _evaluations(material: Material) -> _Part:
    if not material.evaluations:
        return "", ()
    words = []
    for result in material.evaluations:
        metric = metric_words(result.metrics[0])
        what = f"{label_name(result.task)} was predicted by {result.rows[0].method} from {result.rows[0].model}"
        setting = f"{count(result.n_subjects, 'participant')} ({result.split}; metric {metric})"
        words.append(f"{what} in {setting} beside {count(_n_baselines(result), 'baseline')}.")
    text = " ".join(sentence[:1].upper() + sentence[1:] for sentence in words)
    connectivity = any(row.model == "connectivity" for result in material.evaluations for row in result.rows)
    covariance = f"Functional connectivity was estimated with Ledoit-Wolf shrinkage ({LEDOIT.cite}), in scikit-learn ({SKLEARN.cite})."
    units = sorted({resampling_unit(result) for result in material.evaluations}, reverse=True)
    intervals = f"Intervals are 95 % bootstrap intervals over {' or '.join(units)}."
    parts = ((_shipped(material), ()), _fitting(material), (covariance, (LEDOIT, SKLEARN)) if connectivity else ("", ()), (intervals, ()))
    return " ".join(filter(None, (text, *(words for words, _ in parts)))), tuple(work for _, works in parts for work in works)


def _shipped(material: Material) -> str:
    """Where the model that comes with the package, if it was evaluated, is from."""
    evaluated = {model.weights_sha256 for result in material.evaluations for model in result.models}
    folder = shipped_folder(TEMPORAL)
    if folder is None or weights_sha256(folder) not in evaluated:
        return ""
    training = read_training(folder)
    cohorts = _listed({str(entry["cohort"]) for entry in training[LEDGER]})
    return f"{TEMPORAL} comes with slimbrain, pretrained on {cohorts}; the licence of its weights is {training[LICENCE]}."


def _fitting(material: Material) -> _Part:
    """What fitted the linear models and made the folds, and how participants were identified."""
    primary = [result.rows[0] for result in material.evaluations]
    predicted = [row.metric for row in primary if row.method != IDENTIFY]
    numbers = any(metric in REGRESSION_METRICS for metric in predicted)
    classes = any(metric not in REGRESSION_METRICS for metric in predicted)
    parts: list[_Part] = []
    if predicted:
        models = _listed([*(["ridge regressions"] if numbers else []), *(["L2-penalised logistic regressions"] if classes else [])])
        optimised = f" ({'the logistic ones ' if numbers else ''}by L-BFGS-B in SciPy, {SCIPY.cite})" if classes else ""
        words = (
            f"Linear models were {models}, fitted by slimbrain{optimised} on features that scikit-learn ({SKLEARN.cite}) standardised by "
            "the training participants; the penalty was chosen without the test participants. "
            "Folds were slimbrain's own, by participant and balanced over the label."
        )
        parts.append((words, (*((SCIPY,) if classes else ()), SKLEARN)))
    if len(predicted) < len(primary):
        parts.append((f"Participants were identified by the correlation of their sessions ({FINGERPRINT.cite}).", (FINGERPRINT,)))
    return " ".join(words for words, _ in parts), tuple(work for _, works in parts for work in works)


_ATTRIBUTIONS: Mapping[str, tuple[str, Reference]] = {
    "gradient": ("the gradient times the input", INPUT_GRADIENT),
    "integrated": ("integrated gradients", INTEGRATED),
    "occlusion": ("deleting one unit of the brain at a time, a form of occlusion", OCCLUSION),
}


def _explanations(material: Material) -> _Part:
    words, cited = [], []
    for _, entries in material.explained:
        first = {entry.method: entry for entry in reversed(averages(entries))}
        for method, entry in first.items():
            sessions = count(entry.sessions, "session")
            if method in _ATTRIBUTIONS:
                how, reference = _ATTRIBUTIONS[method]
                task = label_name(entry.task)
                words.append(f"Contributions to the decision on {task} were mapped by {how} ({reference.cite}) in {sessions}.")
                cited.append(reference)
            elif method == "surprise":
                words.append(f"The encoder's prediction errors at hidden places were mapped in {sessions}.")
            elif method == "channels":
                words.append(f"The contribution of each channel to the temporal extractor's output was mapped in {sessions}.")
    return " ".join(words), tuple(cited)


def _n_baselines(result: Result) -> int:
    return sum(model not in result.ours for model, _ in result.by_predictor)


def _listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; a set is sorted."""
    listed = sorted(words) if isinstance(words, (set, frozenset)) else list(words)
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)
