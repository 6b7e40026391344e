"""`slimbrain launch`, the one door to a cluster: a command in front of which the cluster's options stand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimbrain.cli.options import open_store
from slimbrain.cli.outputs import require_free_outputs
from slimbrain.errors import InputError

if TYPE_CHECKING:
    from slimbrain.launch import Work

LAUNCHABLE = ("prep", "embed", "pretrain", "evaluate")
_DEFAULT_SHARDS = 16
_PARAMETERS = {"license": "license_name"}
"""Parameter of the command that gives an entry of `PrepOptions`, where the names differ."""

_MOVED = ("--slurm", "--local")


def moved(arguments: Sequence[str]) -> str | None:
    """Where `--slurm` and `--local` went, if one is typed after a command that had them; None otherwise."""
    name = next((word for word in arguments if not word.startswith("-")), "")
    option = next((word for word in arguments if word in _MOVED), None)
    if name not in LAUNCHABLE or option is None:
        return None
    local = "--local " if option == "--local" else ""
    return f"{option}: is no option of {name}; write `slimbrain launch {local}{name} ...`, with the cluster's options before {name}."


def launch(
    context: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND ...", help="prep, embed, evaluate or pretrain, with its options.", show_default=False)
    ],
    local: Annotated[bool, typer.Option("--local", help="Run the shards as processes of this machine instead of on Slurm.")] = False,
    partition: Annotated[str | None, typer.Option(help="Partition of the cluster.")] = None,
    account: Annotated[str | None, typer.Option(help="Account to charge.")] = None,
    time: Annotated[str, typer.Option(help="Time limit of each job, as for sbatch.")] = "24:00:00",
    memory: Annotated[str | None, typer.Option(help="Memory per node, e.g. 32G.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per node.")] = 0,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores per node; the command's --nprocs or --threads if not given.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of a pretraining.")] = 1,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes per node of a pretraining; one per GPU if not given.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Feature that nodes must have, e.g. a100.")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(help="Further sbatch option, e.g. qos=high; repeat for more.")] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Shards of prep and embed; 16 if not given, or with --local one per core.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Maximum number of shards that run at once.")] = 256,
    grace: Annotated[int, typer.Option(min=1, help="Seconds before the time limit at which a job is told to save.")] = 120,
    launch_folder: Annotated[Path | None, typer.Option(help="Folder for logs and states; --out with `.launch` if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch script and the shards, and exit.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Exit once submitted; the same command again waits and gathers.")] = False,
) -> None:
    """Run a command on a Slurm cluster, or as processes of this machine: prep and embed in shards, the others as one job.

    Options of the cluster stand before the command, its own options after it. Run again, it submits only what is missing.

    Example: `slimbrain launch --partition cpu --shards 64 prep fmriprep/ store/ participant`
    """
    from slimbrain.launch import Resources
    from slimbrain.launch import launch as run_launch
    from slimbrain.launch.client import describe
    from slimbrain.launch.cluster import Processes, Slurm
    from slimbrain.launch.folder import LaunchFolder

    name, given = _parse(context, command)
    resources = Resources(
        partition=partition,
        account=account,
        constraint=constraint,
        memory=memory,
        time=time,
        gpus=gpus,
        cpus=cpus or given.get("nprocs") or given.get("threads"),
        nodes=nodes,
        processes=processes,
        sbatch=tuple(sbatch or ()),
        parallel=parallel,
        grace_s=grace,
    )
    work = _work(name, given, tuple(command), shards or ((os.cpu_count() or 1) if local else _DEFAULT_SHARDS))
    if nodes > 1 and not work.distributed:
        raise InputError(f"--nodes {nodes}: is for pretraining; `{name}` takes --shards.")
    folder = LaunchFolder(launch_folder or Path(f"{work.out}.launch"))
    place: Slurm | Processes = Processes(resources) if local else Slurm(resources, f"slimbrain-{name}")
    if dry_run:
        print(describe(work.shards))
        if isinstance(place, Slurm):
            print(place.script(folder, len(work.shards)))
        return
    outcome = run_launch(work, resources, place, folder, wait=not no_wait)
    if outcome.waiting:
        print(f"{len(outcome.states)} shards are submitted; the same command without --no-wait waits for them and gathers.")
    for line in filter(None, (outcome.table, outcome.line)):
        print(line)
    raise typer.Exit(outcome.exit_code)


def _parse(context: typer.Context, words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Name of the command to launch, and its options as its own parser reads them."""
    name, *others = words
    if name not in LAUNCHABLE:
        raise InputError(f"launch: cannot launch {name}; after the cluster's options write one of {', '.join(LAUNCHABLE)}.")
    group: Any = context.find_root().command
    given: dict[str, Any] = group.commands[name].make_context(name, others, parent=context.find_root()).params
    if name != "prep":
        require_free_outputs(given)
    return name, given


def _work(name: str, given: dict[str, Any], words: tuple[str, ...], shards: int) -> Work:
    """The command cut into what each job does."""
    from slimbrain.launch import commands

    out = Path(given["out"])
    if name == "prep":
        from slimbrain.config import checked_options
        from slimbrain.prep.options import PrepOptions

        options = {option: given[_PARAMETERS.get(option, option)] for option in PrepOptions.model_fields if option != "warn_coverage"}
        return commands.prep_work(words, Path(given["source"]), out, checked_options(PrepOptions, options, "slimbrain prep"), shards)
    if name == "embed":
        # Typer before 0.29 leaves them words.
        store, participants = Path(given["store"]), given["participants"] and Path(given["participants"])
        return commands.embed_work(words, lambda: open_store(store, participants), out, shards, given["shard"])
    return commands.pretrain_work(words, out) if name == "pretrain" else commands.evaluate_work(words, out)
