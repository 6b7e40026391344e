"""How each command is cut up: per-session work into shards of equal bytes, the rest into one job that resumes where it was stopped."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from slimbrain.errors import InputError
from slimbrain.governance.provenance import MODEL_FOLDER
from slimbrain.launch.work import Words, Work, checksum, cut
from slimbrain.prep import PrepOptions
from slimbrain.store import Store


def prep_work(command: Words, source: Path, out: Path, options: PrepOptions, shards: int) -> Work:
    """Shards of runs, whose sessions are listed in the manifest in one write.

    The layout is recognised once, here, since that looks into every folder of the source.

    Parameters
    ----------
    command : tuple of str
        Words after `slimbrain`.
    source, out : Path
        What is prepared, and the store.
    options : PrepOptions
        Options of `slimbrain prep`.
    shards : int
        Number of shards.

    Raises
    ------
    InputError
        If the source cannot be prepared, or an option is one that `launch` sets itself or that must not be repeated in every shard.
    """
    from slimbrain.prep.layouts import AUTO, choose_layout, find_recordings
    from slimbrain.prep.run import bytes_of, query_of

    _refuse_shard(options.shard)
    if options.readmit:
        raise InputError(
            f"--readmit {options.readmit[0]}: happens once and not in every shard; run the command on this machine with it and with "
            f"--participant-label {options.readmit[0]}, then without it on the cluster."
        )

    def gather(_: bool) -> str:
        from slimbrain.prep.run import collect
        from slimbrain.report.data_page import write_data_page

        if not out.exists():
            return ""
        listed = collect(out)
        return f"{listed} sessions listed; see {write_data_page(out, shlex.join(['slimbrain', *command]))}"

    layout = choose_layout(source, options.layout)

    def inputs() -> str:
        found = find_recordings(source, layout, query_of(options))
        return checksum((run.name, bytes_of(run)) for run in found.runs)

    return cut(command, out, shards, gather, inputs, ("--layout", layout.name) if options.layout == AUTO else ())


def embed_work(command: Words, open_store: Callable[[], Store], out: Path, shards: int, shard: str | None = None) -> Work:
    """Shards of sessions, whose embeddings are joined once all are there.

    Parameters
    ----------
    command : tuple of str
        Words after `slimbrain`.
    open_store : callable
        Opens the store with the participants that the command selects; called again at the end, to see whether sessions came or went.
    out : Path
        The npz file, or the folder of a BIDS derivative.
    shards : int
        Number of shards.
    shard : str, optional
        The command's own `--shard`, which is refused.
    """
    from slimbrain.disk.shards import Shard
    from slimbrain.embed.joining import is_npz, join_embeddings, part_path

    _refuse_shard(shard)
    joined = is_npz(out)
    keys = [info.key for info in open_store().sessions]
    parts = max(1, min(shards, len(keys)))

    def gather(done: bool) -> str:
        if not done:
            return f"{out} is not {'written' if joined else 'whole'}: some sessions are missing; the same command again embeds them."
        if joined and parts > 1:
            join_embeddings(out, [part_path(out, Shard(number, parts)) for number in range(1, parts + 1)], keys)
        return f"{len(keys)} sessions in {out}"

    def inputs() -> str:
        return checksum((info.key, info.n_frames) for info in open_store().sessions)

    return cut(command, out, parts, gather, inputs)


def pretrain_work(command: Words, out: Path) -> Work:
    """One job on all nodes, which saves when it is told to and resumes from there."""
    model = out / MODEL_FOLDER

    def gather(done: bool) -> str:
        return f"the model is in {model}" if done else ""

    return Work(command, out, {"all": (*command, "--resume", "auto")}, distributed=True, result=model, gather=gather)


def evaluate_work(command: Words, out: Path) -> Work:
    """One job: everything is compared on the same folds. Fine-tuning resumes where it was stopped."""

    def gather(done: bool) -> str:
        return out.with_suffix(".md").read_text(encoding="utf-8") if done else ""

    return Work(command, out, {"all": command}, gather=gather)


def _refuse_shard(shard: str | None) -> None:
    if shard:
        raise InputError(f"--shard {shard}: is chosen for each job; leave it out, and say how many with --shards.")
