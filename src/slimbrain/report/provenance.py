"""The section on how to reproduce the page: versions, seeds, hashes, command lines."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from slimbrain import __version__
from slimbrain.disk.made_by import recorded_maker
from slimbrain.evaluate.tasks import label_name
from slimbrain.governance.provenance import MODEL_FOLDER
from slimbrain.report.blocks import MISSING, Block, Code, Column, Fold, Prose, Section, Table, TableBuilder
from slimbrain.report.explained import averages
from slimbrain.report.inputs import Material
from slimbrain.report.recorded import RunRecord
from slimbrain.store.description import recorded_commands

_TITLE = "How to reproduce this"

_WEIGHTS_FILE = "model.safetensors"

_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "nibabel", "nilearn")


def build(material: Material) -> Section:
    """Software, contract, runs, commands."""
    tables = [_versions(material), _files(material)]
    if material.store is not None:
        tables.append(_contract(material))
    if material.runs:
        tables.append(_runs(material))
    blocks: list[Block] = []
    commands = tuple(dict.fromkeys((*filter(None, _recorded(material)), *material.inputs.commands)))
    if commands:
        blocks.append(Code("Command lines, in order", commands))
    else:
        blocks.append(Prose("No command line was recorded."))
    blocks += [Fold(table.caption, (table,)) for table in tables if table.rows]
    return Section("provenance", _TITLE, tuple(blocks))


def _recorded(material: Material) -> Iterator[str]:
    """Command lines as the files have them, in the order in which one needs the other."""
    if material.store is not None:
        yield from recorded_commands(material.store.description)
    yield from (line for run in material.runs if run.stage == "temporal" for line in run.settings.commands)
    yield recorded_maker(material.inputs.windows, "rank")
    yield from (line for run in material.runs for line in run.settings.commands)
    for result in material.evaluations:
        yield from result.commands
    yield from (line for _, entries in material.explained for entry in averages(entries) for line in entry.commands)


def _versions(material: Material) -> Table:
    columns = (Column("software"), Column("version"), Column("used for"))
    table = TableBuilder("Software that wrote this page, and that trained and evaluated", columns)
    table.add(["slimbrain", __version__, "this page"])
    table.add(["python", platform.python_version(), "this page"])
    for name in _LIBRARIES:
        table.add([name, metadata.version(name), "this page"])
    for run in material.runs:
        for name, version in run.settings.versions.items():
            table.add([name, version, f"run {run.folder.name}"])
    for result in material.evaluations:
        table.add(["slimbrain", result.version, f"evaluation of {label_name(result.task)}"])
    return table.build()


def _files(material: Material) -> Table:
    inputs = material.inputs
    kinds: tuple[tuple[str, Iterable[Path | None]], ...] = (
        ("store", [inputs.store.root if inputs.store else None]),
        ("window table", [inputs.windows]),
        ("run", inputs.runs),
        ("evaluation", inputs.evaluations),
        ("truth", [inputs.truth]),
        ("refused runs", [inputs.failures]),
        ("runs left out", [inputs.excluded]),
        ("map", inputs.maps),
        ("maps of slimbrain explain", inputs.explained),
    )
    columns = (Column("what"), Column("path"), Column("SHA-256 of the file"))
    table = TableBuilder("Inputs of this page; folders have no hash", columns)
    for kind, paths in kinds:
        for path in filter(None, paths):
            table.add([kind, str(path), _sha256(path) if path.is_file() else MISSING])
    return table.build()


def _contract(material: Material) -> Table:
    assert material.store is not None
    contract = material.store.contract
    table = TableBuilder("Contract of the store, which a model must share", (Column("part"), Column("value")))
    table.add(["lattice", contract.lattice])
    if contract.mask:
        table.add(["hash of the mask", contract.mask])
    table.add(["space", contract.space])
    table.add(["templates", ", ".join(sorted({session.info.space for session in material.sessions})) or MISSING])
    table.add(["TR (s)", f"{contract.tr:g}"])
    return table.build()


def _runs(material: Material) -> Table:
    heads = ("run", "stage", "preset", "seed", "threads", "SHA-256 of the weights")
    table = TableBuilder("Pretraining runs", tuple(Column(head, head in ("seed", "threads")) for head in heads))
    for run in material.runs:
        known = (run.settings.preset.name or None, run.settings.seed, run.settings.threads)
        table.add([run.folder.name, run.stage, *(MISSING if value is None else str(value) for value in known), _digest(run)])
    return table.build()


def _digest(run: RunRecord) -> str:
    path: Path = run.folder / MODEL_FOLDER / _WEIGHTS_FILE
    return _sha256(path) if path.is_file() else "not exported yet"


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
