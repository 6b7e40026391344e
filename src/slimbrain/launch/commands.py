"""How each command is cut up: per-session work into shards by bytes, the rest into one job that goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slimbrain.errors import InputError
from slimbrain.launch.work import Words, Work, checksum, cut
from slimbrain.store import SessionInfo

_Given = Mapping[str, Any]
"""Options of a command by parameter, as its function would get them."""


def _prep(command: Words, given: _Given, shards: int) -> Work:
    """Shards of runs; their sessions are listed in the manifest in one write, of what is done if not all is.

    The layout is recognised once, here: that looks into every folder of the source.
    """
    import shlex

    from slimbrain.prep.layouts import AUTO, choose_layout, find_recordings
    from slimbrain.prep.options import PrepOptions, checked_options
    from slimbrain.prep.run import bytes_of, request_of

    out = Path(given["out"])
    if given.get("shard"):
        raise InputError(f"--shard {given['shard']}: is chosen for each job; leave it out, and say how many with --shards.")
    if given.get("readmit"):
        raise InputError(
            f"--readmit {given['readmit'][0]}: happens once and not in every shard; run the command on this machine with it and with "
            f"--participant-label {given['readmit'][0]}, then without it on the cluster."
        )

    def gather(_: bool) -> str:
        from slimbrain.prep.run import collect
        from slimbrain.report.data_page import write_data_page

        if not out.exists():
            return ""
        listed = collect(out)
        return f"{listed} sessions listed; see {write_data_page(out, shlex.join(['slimbrain', *command]))}"

    source = Path(given["source"])
    layout = choose_layout(source, given["layout"])
    options = checked_options({name: given[name] for name in PrepOptions.model_fields if given.get(name) is not None})

    def inputs() -> str:
        found = find_recordings(source, layout, request_of(options))
        return checksum((run.name, bytes_of(run)) for run in found.runs)

    return cut(command, out, shards, gather, inputs, ("--layout", layout.name) if given["layout"] == AUTO else ())


def _embed(command: Words, given: _Given, shards: int) -> Work:
    """Shards of sessions, whose vectors are joined once all are there."""
    from slimbrain.disk.shards import Shard
    from slimbrain.disk.tsv import read_tsv
    from slimbrain.embed.joining import join_embeddings, part_path
    from slimbrain.store import Store
    from slimbrain.store.participants import PARTICIPANT

    def sessions() -> Sequence[SessionInfo]:
        store = Store(given["store"])
        if given.get("participants"):
            store = store.select({row[PARTICIPANT] for row in read_tsv(given["participants"])})
        return store.sessions

    out, keys = Path(given["out"]), [info.key for info in sessions()]
    parts = max(1, min(shards, len(keys)))

    def gather(done: bool) -> str:
        if not done:
            return f"{out} is not written: some sessions are missing; the same command again embeds them."
        if parts > 1:
            join_embeddings(out, [part_path(out, Shard(number, parts)) for number in range(1, parts + 1)], keys)
        return f"{len(keys)} sessions in {out}"

    def inputs() -> str:
        return checksum((info.key, info.n_frames) for info in sessions())

    return cut(command, out, parts, gather, inputs)


def _pretrain(command: Words, given: _Given, _: int) -> Work:
    """One job on all nodes, which saves when it is told to and goes on from there."""
    out = Path(given["out"])

    def gather(done: bool) -> str:
        from slimbrain.train import MODEL_FOLDER

        return f"the model is in {out / MODEL_FOLDER}" if done else ""

    return Work(command, out, {"all": (*command, "--resume", "auto")}, distributed=True, saves=True, gather=gather)


def _evaluate(command: Words, given: _Given, _: int) -> Work:
    """One job: everything is compared on the same folds. Fine-tuning goes on where it was stopped."""
    out = Path(given["out"])

    def gather(done: bool) -> str:
        return out.with_suffix(".md").read_text(encoding="utf-8") if done else ""

    return Work(command, out, {"all": command}, gather=gather)


COMMANDS: Mapping[str, Callable[[Words, _Given, int], Work]] = {
    "prep": _prep,
    "embed": _embed,
    "pretrain": _pretrain,
    "evaluate": _evaluate,
}
