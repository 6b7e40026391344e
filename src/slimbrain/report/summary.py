"""The verdict, and up to four short paragraphs, each computed from the inputs."""

from __future__ import annotations

import numpy as np

from slimbrain.evaluate.table import remarks
from slimbrain.evaluate.tasks import label_name
from slimbrain.report.blocks import Block, Prose, Section, VerdictBlock, count
from slimbrain.report.inputs import Material
from slimbrain.report.recall import pooled
from slimbrain.report.training import sentence
from slimbrain.report.windows import recall_sentence, recalls

_TITLE = "Summary"


def build(material: Material) -> Section:
    """How it compares, what went in, how good that was, what was learnt, what was chosen."""
    verdict = _compares(material)
    found = [_went_in(material), _quality(material), _chosen(material), _learnt(material)]
    sentences: tuple[Block, ...] = (*([VerdictBlock(verdict)] if verdict else []), *(Prose(text) for text in found if text))
    absent = "" if sentences else "nothing was given to sum up; --store, --windows, --run and --evaluation add sentences."
    return Section("summary", _TITLE, sentences, absent=absent)


def _went_in(material: Material) -> str:
    parts = []
    if material.excluded:
        left_out = len({row["session"] for row in material.excluded})
        parts.append(f"{count(left_out, 'run was', 'runs were')} excluded by a quality threshold")
    if material.inputs.failures:
        parts.append(f"{count(len(material.failures), 'run was', 'runs were')} refused" if material.failures else "no run was refused")
    refused = " and ".join(parts)
    if not material.sessions:
        return f"{refused[0].upper()}{refused[1:]}." if refused else ""
    subjects = {session.info.subject for session in material.sessions}
    minutes = sum(session.info.n_frames * session.info.tr for session in material.sessions) / 60
    who = f"{count(len(material.sessions), 'session')} of {count(len(subjects), 'participant')}"
    went = f"{who} went in, {count(round(minutes), 'minute')} of recording"
    return f"{went}; {refused}." if refused else f"{went}."


def _quality(material: Material) -> str:
    coverage = [session.qc["coverage"] for session in material.sessions if "coverage" in session.qc]
    motion = [session.qc["fd_mean"] for session in material.sessions if "fd_mean" in session.qc]
    warned = sum(bool(session.warnings) for session in material.sessions)
    parts = []
    if coverage:
        parts.append(f"data cover {'all' if min(coverage) == 1 else f'at least {100 * min(coverage):.1f} %'} of the brain mask")
    if motion:
        parts.append(f"the median of the sessions' mean framewise displacement is {np.median(motion):.2f} mm")
    if not parts:
        return ""
    parts.append(f"{count(warned, 'session carries', 'sessions carry')} a warning" if warned else "none carries a warning")
    text = f"{', '.join(parts[:-1])}, and {parts[-1]}."
    return text[0].upper() + text[1:]


def _learnt(material: Material) -> str:
    return " ".join(sentence(run) for run in material.runs)


def _chosen(material: Material) -> str:
    found = recalls(material)
    if found:
        return recall_sentence(pooled(found.values()))
    if not material.windows:
        return ""
    n_windows = sum(len(rows) for rows in material.windows.values())
    kept = sum(min(material.k, len(rows)) for rows in material.windows.values())
    return f"Stage 1 chose {kept:,} of {count(n_windows, 'window')}, the {material.k} best of each session."


def _compares(material: Material) -> str:
    if not material.evaluations:
        return ""
    first = material.evaluations[0]
    more = len(material.evaluations) - 1
    verdict = remarks(first)[0]
    rest = f"{verdict.removesuffix('.')}; {count(more, 'further task')} below." if more else verdict
    return f"On {label_name(first.task)}, {rest}"
