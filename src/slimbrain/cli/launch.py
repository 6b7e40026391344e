"""`--slurm` and `--local` on the commands that take long, and `slimbrain launch`, which adds them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from slimbrain.cli import options
from slimbrain.errors import InputError

_SLURM, _LOCAL = "--slurm", "--local"
_DEFAULT_SHARDS = 16
_PANEL = "On a cluster"


def _option(help_text: str, *names: str, minimum: int | None = None) -> Any:
    return typer.Option(*names, help=help_text, min=minimum, rich_help_panel=_PANEL)


def _cluster(
    *,
    slurm: Annotated[bool, _option("Submit it to Slurm, in shards of sessions or on several nodes.", _SLURM)] = False,
    local: Annotated[bool, _option("The same in processes of this machine.", _LOCAL)] = False,
    partition: Annotated[str | None, _option("Partition of the cluster.")] = None,
    account: Annotated[str | None, _option("Account to charge.")] = None,
    time: Annotated[str, _option("Limit of each job, as sbatch has it.")] = "24:00:00",
    memory: Annotated[str | None, _option("Memory of each node, e.g. 32G.")] = None,
    gpus: Annotated[int, _option("GPUs of each node.", minimum=0)] = 0,
    cpus: Annotated[int | None, _option("CPU cores of each node; as many as --nprocs or --threads if not given.", minimum=1)] = None,
    nodes: Annotated[int, _option("Nodes of a pretraining.", minimum=1)] = 1,
    processes: Annotated[int | None, _option("Processes of a pretraining on each node; one a GPU if not given.", minimum=1)] = None,
    constraint: Annotated[str | None, _option("Feature that nodes must have, e.g. a100.")] = None,
    sbatch: Annotated[list[str] | None, _option("Further option of sbatch, e.g. qos=high; repeat for more.")] = None,
    shards: Annotated[int | None, _option("Parts to make of per-session work; 16, or with --local one a core.", minimum=1)] = None,
    parallel: Annotated[int, _option("Shards that run at once, at most.", minimum=1)] = 256,
    grace: Annotated[int, _option("Seconds before the limit at which a job is told to save.", minimum=1)] = 120,
    launch_folder: Annotated[Path | None, _option("For logs and states; beside --out, with `.launch`, if not given.")] = None,
    dry_run: Annotated[bool, _option("Print the batch script and leave.", "--dry-run")] = False,
    no_wait: Annotated[bool, _option("Leave once submitted; the same command again waits and gathers.", "--no-wait")] = False,
) -> None:
    """The options; never called."""


_CLUSTER_OPTIONS = {name: parameter for name, parameter in inspect.signature(_cluster).parameters.items()}
_FLAGS = ("slurm", "local", "dry_run", "no_wait")


def launchable(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a cluster: it runs here unless --slurm or --local is given."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        cluster = {name: given.pop(name) for name in _CLUSTER_OPTIONS}
        if cluster["slurm"] or cluster["local"]:
            _launch(command.__name__, given, cluster)
            return
        unused = [name for name, value in cluster.items() if value != _CLUSTER_OPTIONS[name].default]
        if unused:
            raise InputError(f"--{unused[0].replace('_', '-')}: is for a cluster; add {_SLURM} or {_LOCAL}.")
        command(**given)

    hints = {**get_type_hints(command, include_extras=True), **get_type_hints(_cluster, include_extras=True)}
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inspect.signature(command).parameters.values()]
    typed = [each.replace(annotation=hints[each.name]) for each in (*own, *_CLUSTER_OPTIONS.values())]
    run.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run


def launch(
    command: Annotated[list[str], typer.Argument(help="prep, embed, evaluate or pretrain, with its options.", show_default=False)],
) -> None:
    """Run a command on a Slurm cluster, or with --local in processes of this machine: the same as the command with --slurm.

    Options of the cluster come first; `slimbrain prep --help` lists them.

    Example: `slimbrain launch --partition cpu --shards 64 prep fmriprep/ store/ participant`
    """
    from slimbrain.cli import run_command
    from slimbrain.launch.commands import COMMANDS

    words = options.arguments[1:]
    start = next((place for place, word in enumerate(words) if word in COMMANDS), None)
    if start is None:
        raise InputError(f"launch: no command to launch among these words; write one of {', '.join(COMMANDS)} after the cluster's options.")
    own = [word for word in words[:start] if word != "--"]
    where = [] if {_SLURM, _LOCAL} & set(own) else [_SLURM]
    raise typer.Exit(run_command([*words[start:], *own, *where]))


def _launch(name: str, given: dict[str, Any], cluster: dict[str, Any]) -> None:
    from slimbrain.launch import Resources
    from slimbrain.launch import launch as run_launch
    from slimbrain.launch.client import describe
    from slimbrain.launch.cluster import Processes, Slurm
    from slimbrain.launch.commands import COMMANDS
    from slimbrain.launch.folder import LaunchFolder

    names = ("partition", "account", "constraint", "memory", "time", "gpus", "nodes", "processes", "parallel")
    cpus = cluster["cpus"] or given.get("nprocs") or given.get("threads")
    chosen = {each: cluster[each] for each in names}
    resources = Resources(**chosen, cpus=cpus, sbatch=tuple(cluster["sbatch"] or ()), grace_s=cluster["grace"])
    parts = cluster["shards"] or ((os.cpu_count() or 1) if cluster["local"] else _DEFAULT_SHARDS)
    work = COMMANDS[name](typed_without_cluster(options.arguments), given, parts)
    if resources.nodes > 1 and not work.distributed:
        raise InputError(f"--nodes {resources.nodes}: is for pretraining; `{name}` takes --shards.")
    folder = LaunchFolder(cluster["launch_folder"] or Path(f"{work.out}.launch"))
    place: Slurm | Processes = Processes(resources) if cluster["local"] else Slurm(resources, f"slimbrain-{name}")
    if cluster["dry_run"]:
        print(describe(work.shards))
        if isinstance(place, Slurm):
            print(place.script(folder, len(work.shards)))
        return
    outcome = run_launch(work, resources, place, folder, wait=not cluster["no_wait"])
    if outcome.waiting:
        print(f"{len(outcome.states)} shards are on their way; the same command without --no-wait waits for them and gathers.")
    for line in filter(None, (outcome.table, outcome.line)):
        print(line)
    raise typer.Exit(outcome.exit_code)


def typed_without_cluster(words: Sequence[str]) -> tuple[str, ...]:
    """A command line without the options of a cluster and their values."""
    names = {f"--{name.replace('_', '-')}": name for name in _CLUSTER_OPTIONS}
    kept: list[str] = []
    skip = False
    for word in words:
        name = names.get(word.split("=", 1)[0])
        if not skip and name is None:
            kept.append(word)
        skip = not skip and name is not None and name not in _FLAGS and "=" not in word
    return tuple(kept)
