"""From checkpoints and a store to a finished comparison, by every method asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.data.clip import read_clip
from slimbrain.embed.features import Model, chosen_pooling, clip_pooling, embed_store, read_embeddings, untrained, windows_read
from slimbrain.embed.series import NATIVE
from slimbrain.errors import ContractError, InputError
from slimbrain.evaluate.attention import AttentionProbe
from slimbrain.evaluate.compare import evaluate
from slimbrain.evaluate.designs import Design, Screening, leaving_out
from slimbrain.evaluate.finetune import FinetuneConfig, FineTuning, Views, require_encoder
from slimbrain.evaluate.linear_pretraining import linear_pretraining
from slimbrain.evaluate.probes import Predictor, embedding_set
from slimbrain.evaluate.raw_series import raw_series
from slimbrain.evaluate.result import IDENTIFY, PROBE, UNTRAINED, Cannot, ModelWeights, Result
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.tasks import IDENTITY, Target, Task, get_task
from slimbrain.evaluate.transfer import Side, evaluate_transfer, without_shared_people
from slimbrain.evaluate.tuned import save_tuned
from slimbrain.models.hub import from_pretrained, require_model
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.progress import track
from slimbrain.saliency.choose import choose_windows, window_order
from slimbrain.store import Store
from slimbrain.train import pick_device

_METHODS = ("probe", "attention", "finetune", "identify")
_BASELINES = ("default", "all")


@dataclass(frozen=True)
class Tuning:
    """How and where encoders are fine-tuned.

    Attributes
    ----------
    device : str
        As of `pick_device`.
    folder : Path or None
        Where finished folds are kept, from which an evaluation that was stopped resumes; nowhere if None.
    save : Path or None
        Where the first model goes, tuned once more on everybody with a label; nowhere if None.
    """

    config: FinetuneConfig = field(default_factory=FinetuneConfig)
    device: str = "auto"
    folder: Path | None = None
    save: Path | None = None


@dataclass(frozen=True)
class Options:
    """What an evaluation may be told.

    Attributes
    ----------
    windows, k : str or Path or None or int or None
        As for `embed_store`.
    methods : Sequence[str]
        Some of `_METHODS`; the first is the one compared with the best baseline. `probe`, or `identify` where subjects are to be
        told apart, if empty.
    phenotypes : Sequence[str or Path]
        The benchmark's phenotype files.
    group : str
        As for `get_task`.
    embeddings : Sequence[str or Path]
        Files of `slimbrain embed`, made by these models of the very frames that they are to see; others are refused.
    allow_overlap : bool
        Evaluate on participants that a model was trained on, too; the result counts them.
    drop_duplicates : bool
        Leave out copied recordings, which would be refused; see `leaks.screen`.
    design : Design
        Who learns and who is tested.
    baselines : str
        `default`, or `all`: those that take longer as well.
    pretraining_people : Path or None
        As for `linear_pretraining`.
    pooling : str or None
        As for `embed_store`, of trained models; the untrained one is read in its default way, or as `native` where they are.
    """

    windows: str | Path | None = None
    k: int | None = None
    methods: Sequence[str] = ()
    phenotypes: Sequence[str | Path] = ()
    group: str = ""
    embeddings: Sequence[str | Path] = ()
    allow_overlap: bool = False
    drop_duplicates: bool = False
    tuning: Tuning = field(default_factory=Tuning)
    design: Design = field(default_factory=Design)
    baselines: str = "default"
    pretraining_people: Path | None = None
    pooling: str | None = None


@dataclass(frozen=True)
class _Contender:
    """A model under the name it has in the table, what it sees of each session, vectors that were made before, and how they are pooled."""

    name: str
    model: Model
    views: Mapping[str, Views]
    embedded: Mapping[str, NDArray[Any]] | None = None
    pooling: str | None = None

    @property
    def weights(self) -> str:
        """SHA-256 of the file that they were read from."""
        return self.model.provenance.weights_sha256 if self.model.provenance else ""

    @property
    def window_frames(self) -> int:
        assert self.model.provenance is not None
        return self.model.provenance.window.frames


def evaluate_models(
    store: Store,
    task: str,
    models: Sequence[str | Path],
    options: Options | None = None,
) -> Result:
    """Read each model by each method, the first one untrained by the same methods, and compare on a task.

    Parameters
    ----------
    store : Store
        With the sessions, and the labels in its `participants.tsv`.
    task : str
        As `slimbrain evaluate --task`: `column:NAME` of participants.tsv, `identity`, or a task of a benchmark.
    models : Sequence[str or Path]
        Model folders or hub ids; the first is the one compared with the best baseline.
    options : Options or None
        Methods, windows, folds and baselines; probes in 5 folds of participants if None.

    Returns
    -------
    Result
        A row per model, method and metric, with intervals; `write_result` writes it.

    Raises
    ------
    InputError
        If there is no such method, or the task cannot be done by it.

    Examples
    --------
    >>> from slimbrain import Store
    >>> from slimbrain.evaluate.methods import evaluate_models
    >>> result = evaluate_models(Store("visits"), "identity", ["runs/temporal/model"])
    >>> result.n_subjects, result.metrics, sorted({row.model for row in result.rows})
    (4, ('top1', 'mrr'), ['chance', 'channels', 'connectivity', 'slimbrain temporal', 'untrained'])
    """
    options = options or Options()
    design = options.design
    wanted = design.task(get_task(task, phenotypes=options.phenotypes, group=options.group, source=store))
    chosen = _choose_methods(options.methods, wanted)
    design.require_fitting(wanted, chosen)
    if options.baselines not in _BASELINES:
        raise InputError(f"--baselines {options.baselines}: there is no such set; choose from {', '.join(_BASELINES)}.")
    if options.tuning.save and "finetune" not in chosen:
        raise InputError(f"--save {options.tuning.save}: only a fine-tuned model is saved; add --method finetune, or leave it out.")
    loaded = [from_pretrained(source, store.contract) for source in models]
    if "finetune" in chosen:
        for source, model in zip(models, loaded, strict=True):
            require_encoder(model, source)
    provenances = {str(source): model.provenance for source, model in zip(models, loaded, strict=True)}
    screening = Screening(wanted, provenances, design, options.allow_overlap, options.drop_duplicates)
    if design.transfer_to:
        return _transferred(store, Store(design.transfer_to), screening, loaded, models, options)
    store, series, screened = screening.of(store)
    if design.leave_out:
        wanted, screened = leaving_out(design.leave_out, wanted, screened, store)
    contenders = _contenders(store, loaded, models, options)
    trained = contenders[:-1]
    makers: dict[str, Callable[[_Contender, Sequence[str]], Predictor]] = {
        "probe": lambda entry, keys: embedding_set(entry.name, _vectors(store, entry), keys),
        "identify": lambda entry, keys: embedding_set(entry.name, _vectors(store, entry), keys, IDENTIFY),
        "attention": lambda entry, keys: AttentionProbe(entry.name, _tokens(store, entry, keys)),
        "finetune": lambda entry, keys: _tuning_of(store, entry, options.tuning, keys),
    }
    predictors = [makers[method](entry, screened.target.keys) for method in chosen for entry in contenders]
    named, used = _named(store, trained), _frames_used(store, trained[0])
    more = _further_baselines(store, series, screened.target, loaded[0], options)
    further = options.baselines == "all"
    result = evaluate(store, wanted, screened, predictors, used, named, series, labelled=design.policies, more=more, further=further)
    if options.tuning.save:
        _save(store, wanted, screened.target, trained[0], options.tuning, options.tuning.save)
    return result


def _further_baselines(store: Store, series: ChannelSeries, target: Target, model: Model, options: Options) -> list[Predictor]:
    """Those that need more than the store: windows as samples, or what the first model remembers of its people."""
    if options.design.frames:
        return list(raw_series(series, target.keys))
    if target.kind == "identification":
        return []
    axes = linear_pretraining(store, target.keys, series, model.provenance, options.pretraining_people)
    return [axes] if axes else []


def _transferred(
    store: Store, tested: Store, screening: Screening, loaded: Sequence[Model], sources: Sequence[str | Path], options: Options
) -> Result:
    """Train readers on one cohort and test them on another."""
    contenders = _contenders(store, loaded, sources, options)
    sides = []
    # Of those who are trained on, a model may know some; nobody is tested whom it knows.
    for of, looking in ((store, replace(screening, allow=True)), (tested, screening)):
        _, series, screened = looking.of(of)
        sides.append(Side(of, series, screened, _frames_used(of, _at(of, contenders[0], options))))
    here, there = without_shared_people(*sides), sides[1]
    found, cannot = [], []
    for entry in contenders:
        try:
            sets = [
                embedding_set(entry.name, _vectors(side.store, _at(side.store, entry, options)), side.target.keys) for side in (here, there)
            ]
            found.append(replace(sets[0], data=np.concatenate([features.data for features in sets])))
        except (ContractError, InputError) as error:
            cannot.append(Cannot(model=entry.name, method=PROBE, reason=str(error)))
    return evaluate_transfer(here, there, screening.task, found, cannot, _named(store, contenders[:-1]))


def _at(store: Store, entry: _Contender, options: Options) -> _Contender:
    """The model with what it sees of the sessions of another store; vectors made before are of the first one."""
    return replace(entry, views=_views(store, entry.model, options), embedded=None)


def _named(store: Store, trained: Sequence[_Contender]) -> list[ModelWeights]:
    poolings = [chosen_pooling(entry.model, entry.pooling, store) for entry in trained]
    return [
        ModelWeights(name=entry.name, weights_sha256=entry.weights, pooling=pooling)
        for entry, pooling in zip(trained, poolings, strict=True)
    ]


def _contenders(store: Store, loaded: Sequence[Model], sources: Sequence[str | Path], options: Options) -> list[_Contender]:
    """The models under the names they have in the table, and last the first one untrained."""
    stages = ["slimbrain temporal" if isinstance(model, TemporalExtractor) else "slimbrain voxel" for model in loaded]
    names = [stage if stages.count(stage) == 1 else f"{stage} {source}" for stage, source in zip(stages, sources, strict=True)]
    trained = [
        _Contender(name, model, _views(store, model, options), pooling=options.pooling) for name, model in zip(names, loaded, strict=True)
    ]
    trained = _with_embeddings(store, trained, options.embeddings)
    # Without places there is nothing of a model in the default, and so it is the same untrained.
    native = chosen_pooling(loaded[0], options.pooling, store) == NATIVE
    return [*trained, _Contender(UNTRAINED, untrained(loaded[0]), trained[0].views, pooling=NATIVE if native else None)]


def _save(store: Store, task: Task, target: Target, entry: _Contender, tuning: Tuning, folder: Path) -> None:
    model, fine = require_model(entry.model, HieraJEPA, entry.name), _tuning_of(store, entry, tuning, target.keys)
    save_tuned(folder, model, fine, target, task.name)


def _choose_methods(methods: Sequence[str], task: Task) -> tuple[str, ...]:
    """The methods asked for, each once, or the one that suits the task."""
    if unknown := [name for name in methods if name not in _METHODS]:
        raise InputError(f"--method {unknown[0]}: there is no such method; choose from {', '.join(_METHODS)}.")
    fitting = ("identify",) if task.identification else ("probe", "attention", "finetune")
    for name in methods:
        if name not in fitting:
            how = f"is for --task {IDENTITY}" if name == "identify" else "predicts a label, and here there is none"
            raise InputError(f"--method {name}: {how}; task {task.name} takes {', '.join(fitting)}.")
    return tuple(dict.fromkeys(methods)) or fitting[:1]


def _views(store: Store, model: Model, options: Options) -> dict[str, Views]:
    """The windows that stage 2 is scored on, and those it may be tuned on; none for stage 1, which sees whole sessions."""
    if not isinstance(model, HieraJEPA):
        return {}
    cut = windows_read(model, options.windows, options.k, clip_pooling(model, options.pooling))
    order = window_order(options.windows, store, cut)
    views = {}
    for info in store.sessions:
        ranked = order(info) if order else None
        scored = choose_windows(info, cut, model.config.unit_frames, ranked)
        views[info.key] = Views(tuple(scored), tuple(range(info.n_windows(cut.frames)) if ranked is None else ranked))
    return views


def _frames_used(store: Store, entry: _Contender) -> dict[str, NDArray[np.int64]]:
    if not entry.views:
        return {info.key: np.arange(info.n_frames) for info in store.sessions}
    window = np.arange(entry.window_frames)
    return {key: np.concatenate([number * len(window) + window for number in views.scored]) for key, views in entry.views.items()}


def _with_embeddings(store: Store, trained: Sequence[_Contender], paths: Sequence[str | Path]) -> list[_Contender]:
    """Give each model the vectors that it made before.

    Raises
    ------
    InputError
        If a file is of none of these models, or of other data, frames or pooling than they are to be evaluated on.
    """
    found: dict[str, Mapping[str, NDArray[Any]]] = {}
    for path in paths:
        made = read_embeddings(path)
        entry = next((entry for entry in trained if entry.weights == made.weights_sha256), None)
        if entry is None:
            raise InputError(f"{path}: was made by none of the models; give --model the folder that `slimbrain embed` had, or embed again.")
        made.contract.require(store.contract, f"the embeddings {path}", f"the store {store.root}")
        frames = _frames_used(store, entry)
        other = [key for key in frames if key not in made.frames_used or not np.array_equal(made.frames_used[key], frames[key])]
        pooling = chosen_pooling(entry.model, entry.pooling, store)
        if other or made.pooling != pooling:
            frames_differ = f"has no vector of {other[0]}, or of other frames" if other else ""
            what = frames_differ or f"is pooled by {made.pooling}, and a probe reads {pooling}"
            raise InputError(f"{path}: {what}; embed again with the same --windows and --k, or leave --embeddings out.")
        found[entry.name] = made.by_session()
    return [replace(entry, embedded=found.get(entry.name)) for entry in trained]


def _vectors(store: Store, entry: _Contender) -> Mapping[str, NDArray[Any]]:
    if entry.embedded is not None:
        return entry.embedded
    windows = {key: views.scored for key, views in entry.views.items()}
    asked: dict[str, Any] = {"pooling": entry.pooling} if entry.pooling else {}
    return embed_store(store, entry.model, windows, label=f"embed with {entry.name}", **asked).by_session()


def _tuning_of(store: Store, entry: _Contender, tuning: Tuning, keys: Sequence[str]) -> FineTuning:
    encoder, device = require_encoder(entry.model, entry.name), pick_device(tuning.device)
    return FineTuning(entry.name, encoder, store, keys, entry.views, entry.window_frames, tuning.config, device, tuning.folder)


@torch.inference_mode()
def _tokens(store: Store, entry: _Contender, keys: Sequence[str]) -> list[Tensor]:
    """(L, D) float16 of each session: stage 2's tokens of all windows it sees, or stage 1's of all windows there are."""
    tokens = []
    for key in track(keys, f"tokens of {entry.name}", shorter="fewer windows (--k) or participants (--participants)"):
        info = store.session(key)
        if isinstance(entry.model, TemporalExtractor):
            mm = torch.tensor(store.channels(key).mm, dtype=torch.float32)
            values = entry.model.embed(torch.from_numpy(store.coarse(key))[None], mm, info.tr)[1][0]
        else:
            values = entry.model.encoder([read_clip(store, info, entry.views[key].scored, entry.window_frames)]).values
        tokens.append(values.half())
    return tokens
