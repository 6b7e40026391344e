"""A fine-tuned encoder as a model folder: whoever embeds reads it like any other, and its head predicts the label for new sessions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimbrain.data.clip import read_clip
from slimbrain.disk.atomic import write_atomic
from slimbrain.errors import InputError
from slimbrain.evaluate.attention import as_scores
from slimbrain.evaluate.finetune import FineTuning, TunedEncoder
from slimbrain.evaluate.splits import Kind, pose
from slimbrain.evaluate.tasks import Target
from slimbrain.governance.ledger import FINE_TUNED, LEDGER, entries_from, entries_of
from slimbrain.governance.provenance import PRETRAINING_UNKNOWN, REMEMBERED, Provenance, people_in, remember_also
from slimbrain.models.hub import HEAD_FILE, from_pretrained, model_folder, require_model, save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.progress import track
from slimbrain.saliency.choose import Windows, window_choice
from slimbrain.store import Store

_TENSORS = ("weight", "bias", "centre", "spread")
"""Of the linear head: (K, N) and (K,), and what the (N,) pooled tokens are standardised by."""

_SESSION, _PARTICIPANT, _PREDICTION, IN_TRAINING = "session", "participant_id", "prediction", "in_training"


@dataclass(frozen=True)
class _TunedHead:
    """What the weights of a head cannot say.

    Attributes
    ----------
    task, cohort : str
        The task, and the store it was tuned on.
    kind : Kind
        Classification or regression.
    classes : tuple[str, ...]
        Their names; empty for a regression.
    centre, scale : float
        Mean and deviation of the target among those it was fitted on; 0 and 1 for classes.
    weights_sha256 : str
        Of the encoder it belongs to.
    made_by : str
        A hash of all that decides the result, so that a command that is repeated does not tune again.
    """

    task: str
    cohort: str
    kind: Kind
    classes: tuple[str, ...]
    centre: float
    scale: float
    weights_sha256: str
    made_by: str


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model that predicts."""

    model: HieraJEPA
    head: _TunedHead
    tensors: Mapping[str, Tensor]

    def encoder(self) -> TunedEncoder:
        """Encoder, pooling and head, as they were when training ended."""
        tuned = TunedEncoder(self.model.encoder, len(self.tensors["bias"]))
        tuned.begin(torch.zeros(2, self.tensors["weight"].shape[1]))
        tuned.centre, tuned.spread = self.tensors["centre"], self.tensors["spread"]
        tuned.head.load_state_dict({name: self.tensors[name] for name in ("weight", "bias")})
        return tuned.eval()


def save_tuned(folder: str | Path, model: HieraJEPA, tuning: FineTuning, target: Target, task: str, seed: int = 0) -> Path:
    """Tune once more, on everybody with a label, and write the model with its head.

    It is tuned as in a fold: a third of the participants (of groups, where they are bound) say when to stop. What the table says is of
    models tuned on fewer. Participants are remembered beside those of the pretraining, so that evaluating on them is refused.

    Parameters
    ----------
    model : HieraJEPA
        What `tuning` started from.
    target : Target
        Labels of `tuning.keys`.
    task : str
        Its name.

    Raises
    ------
    InputError
        If the folder holds something else.
    """
    folder = Path(folder)
    problem = pose(target.labels, target.subjects, target.kind, target.groups)
    made_by = tuning.fingerprint_of_all(problem, seed)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / HEAD_FILE).exists() or load_tuned(folder).head.made_by != made_by:
            raise InputError(f"{folder}: is not empty and holds another model; delete it, or give --save another folder.")
        return folder
    tuned, (centre, scale) = tuning.tune_on_all(problem, seed)
    whole = deepcopy(model)
    for part in (whole.context, whole.target):
        part.load_state_dict(tuned.encoder.state_dict())
    assert model.provenance is not None
    # Beside it until all is there: who is stopped in between finds no half of a model in the way.
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    save_pretrained(whole, beside, _provenance(model.provenance, tuning, target, task))
    weights = from_pretrained(beside).provenance
    assert weights is not None
    cohort = tuning.store.root.name
    head = _TunedHead(task, cohort, problem.kind, problem.classes, centre, scale, weights.weights_sha256, made_by)
    values = {"weight": tuned.head.weight, "bias": tuned.head.bias, "centre": tuned.centre, "spread": tuned.spread}
    tensors = {name: value.detach().cpu().contiguous() for name, value in values.items()}
    write_atomic(beside / HEAD_FILE, lambda path: save_file(tensors, path, metadata={"head": json.dumps(asdict(head))}))
    return beside.replace(folder)


def load_tuned(source: str | Path, revision: str | None = None) -> Tuned:
    """Read a fine-tuned model that `slimbrain evaluate --save` wrote: a folder, or a hub id.

    Raises
    ------
    InputError
        If it has no head, or one of other weights.
    """
    model = require_model(from_pretrained(source, revision=revision), HieraJEPA, source)
    path = model_folder(source, revision) / HEAD_FILE
    if not path.exists():
        raise InputError(f"{source}: has no {HEAD_FILE}, so it predicts no label; give what `slimbrain evaluate --save` wrote.")
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["head"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        head = _TunedHead(**{**facts, "classes": tuple(facts["classes"])})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}); save the model again.") from error
    if model.provenance is None or head.weights_sha256 != model.provenance.weights_sha256:
        raise InputError(f"{path}: belongs to other weights than those beside it; save the model again.")
    return Tuned(model, head, tensors)


@torch.no_grad()
def predict_store(store: Store, tuned: Tuned, windows: Windows = None, k: int | None = None) -> list[dict[str, Any]]:
    """What the model says of every session of a store.

    Parameters
    ----------
    windows, k : Windows or None or int or None
        As for `embed_store`; as in tuning if None, but for a window table, which has to be given.

    Returns
    -------
    One row per session: `session`, `participant_id`, `prediction` (a class, or a value in the target's own unit), `p_CLASS` for each class,
    and `in_training`, yes or no.

    Raises
    ------
    ContractError
        If the store does not fit the model.
    """
    provenance, head = tuned.model.provenance, tuned.head
    assert provenance is not None
    provenance.contract.require(store.contract, "the model", f"the store {store.root}")
    cut = provenance.window.model_copy(update={"k": k or provenance.window.k})
    choose = window_choice(windows, store, tuned.model.config.unit_frames, cut)
    encoder = tuned.encoder()
    known = set(provenance.trained_on(people_in(store)))
    rows = []
    for info in track(store.sessions, "predict"):
        said = as_scores(encoder([read_clip(store, info, choose(info), cut.frames)]), head.classes)[0]
        row = {_SESSION: info.key, _PARTICIPANT: info.subject}
        if head.classes:
            row |= {_PREDICTION: head.classes[int(said.argmax())]} | {
                f"p_{name}": f"{p:.6f}" for name, p in zip(head.classes, said, strict=True)
            }
        else:
            row[_PREDICTION] = f"{said[0] * head.scale + head.centre:.6g}"
        rows.append({**row, IN_TRAINING: "yes" if info.subject in known else "no"})
    return rows


def _provenance(before: Provenance, tuning: FineTuning, target: Target, task: str) -> Provenance:
    """Pretraining and fine-tuning together: whoever was in either is remembered."""
    store, sessions = tuning.store, [tuning.store.session(key) for key in target.keys]
    data = [*entries_from(before.training), *entries_of(store, sessions)]
    training = {
        **before.training,
        REMEMBERED: remember_also(before.training, people_in(store, sessions)),
        LEDGER: [entry.to_dict() for entry in data],
        FINE_TUNED: task,
        "fine_tuned_from": before.weights_sha256,
        "fine_tuned_subjects": target.n_subjects,
    }
    if not before.remembers:
        training[PRETRAINING_UNKNOWN] = True
    k = max(len(views.scored) for views in tuning.views.values())
    return replace(before, window=before.window.model_copy(update={"k": k}), training=training)
