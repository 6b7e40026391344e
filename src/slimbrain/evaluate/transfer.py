"""Fitted in one cohort, tested in another: other people, other scanners, and for models that can read both another parcellation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError
from slimbrain.evaluate.baselines import confound_rows, confounds, majority, store_baselines
from slimbrain.evaluate.compare import compare, divided
from slimbrain.evaluate.held_out import joined
from slimbrain.evaluate.leaks import Screened
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.result import Cannot, ModelWeights, Result
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import SplitPolicy
from slimbrain.evaluate.tasks import Target, Task
from slimbrain.governance.fingerprint import SIGNATURE_BITS_APART, nearest
from slimbrain.governance.provenance import Person, people_in
from slimbrain.store import ROI, Store

_BLIND = frozenset({"confounds", "majority"})
"""Baselines that read no channels, made for both cohorts at once."""


@dataclass(frozen=True)
class Side:
    """One of the two cohorts.

    Attributes
    ----------
    screened : Screened
        Its labels, and who of it is known to the models.
    used : Mapping[str, ndarray of int64]
        Frames of each session that the first model used.
    """

    store: Store
    series: ChannelSeries
    screened: Screened
    used: Mapping[str, NDArray[np.int64]]

    @property
    def target(self) -> Target:
        return self.screened.target


def evaluate_transfer(
    here: Side, there: Side, task: Task, predictors: Sequence[FeatureSet], cannot: Sequence[Cannot], models: Sequence[ModelWeights]
) -> Result:
    """Fit readers of every model and baseline on all of one cohort, and score them on all of another.

    Parameters
    ----------
    here : Side
        Trained on, without those who are also in the other (`without_shared_people`).
    there : Side
        Tested.
    predictors : Sequence[FeatureSet]
        Features of the sessions of both, one below the other; the first is ours.
    cannot : Sequence[Cannot]
        Models that cannot read both.

    Raises
    ------
    InputError
        If no trained model can read both, or labels differ.
    """
    if cannot and (not predictors or predictors[0].model == cannot[0].model):
        raise InputError(f"{there.store.root}: {cannot[0].model} cannot read it: {cannot[0].reason}")
    ours, untrained = divided(predictors)
    sides, policy = (here, there), SplitPolicy("transfer", seeds=(0,))
    made = [store_baselines(side.store, side.target.keys, side.used, task.hidden, side.target.known, side.series) for side in sides]
    baselines, unfit = _of_both(made[0], made[1], _other_parcellation(here.store, there.store))
    theirs = [*untrained, *baselines, *_blind_baselines(sides, task.hidden)]
    name = there.store.root.name
    result = compare(replace(task, policy=policy), joined(here.target, there.target), ours, theirs)
    told = " of ".join(
        (f"fitted on {here.target.n_subjects} subjects", f"{here.store.root.name}, tested on {there.target.n_subjects}", name)
    )
    known = {
        "cohort": here.store.root.name,
        "tested_on": name,
        "n_subjects": there.target.n_subjects,
        "n_sessions": len(there.target.keys),
        "split": told,
        "classes": there.target.classes,
        "cannot": (*cannot, *unfit),
        "seen_in_pretraining": there.screened.in_training,
        "pretraining_unknown": there.screened.unknown,
        "models": tuple(models),
        "contract": there.store.contract,
    }
    return result.model_copy(update=known)


def without_shared_people(here: Side, there: Side) -> Side:
    """The side to be trained on without people of the tested one, known by name (of one study, or of studies unknown) or by a recording.

    Raises
    ------
    InputError
        If nobody is left.
    """
    mine, theirs = (people_in(side.store, list(map(side.store.session, side.target.keys)), side.series.signature) for side in (here, there))
    shared = {one.label for one in mine if any(_same(one, other) for other in theirs)} | _recorded_twice(mine, theirs)
    keys = {key for key, subject in zip(here.target.keys, here.target.subjects.tolist(), strict=True) if subject in shared}
    if len(keys) == len(here.target.keys):
        raise InputError(
            f"{there.store.root}: has all participants of {here.store.root}, so that none is left to be trained on; test another cohort."
        )
    target = here.target.without(keys, f"also in {there.store.root.name}, which is tested")
    return replace(here, screened=replace(here.screened, target=target))


def _same(one: Person, other: Person) -> bool:
    return one.label == other.label and (not one.cohort or not other.cohort or one.cohort == other.cohort)


def _recorded_twice(mine: Sequence[Person], theirs: Sequence[Person]) -> set[str]:
    """Labels of those of whom the others have a recording, under whatever name."""
    known = [signature for person in theirs for signature in person.recordings if signature]
    own = [(person.label, signature) for person in mine for signature in person.recordings if signature]
    if not known or not own:
        return set()
    bits, _ = nearest([signature for _, signature in own], known)
    return {label for (label, _), apart in zip(own, bits.tolist(), strict=True) if apart <= SIGNATURE_BITS_APART}


def _other_parcellation(store: Store, tested: Store) -> str:
    """Why features of channels cannot go from one store to the other; empty if they can."""
    first, second = (of.channels(of.sessions[0].key) for of in (store, tested))
    if store.contract.lattice != ROI or tested.contract.lattice != ROI:
        alike = store.contract.lattice == tested.contract.lattice and store.contract.mask == tested.contract.mask
        return "" if alike else f"the channels of {tested.root.name} are of another lattice, mask or parcellation"
    if first.names == second.names and np.allclose(first.mm, second.mm, atol=0.1):
        return ""
    return f"{tested.root.name} has another parcellation ({len(second.names)} channels; {len(first.names)} were trained on)"


def _of_both(here: Sequence[FeatureSet], there: Sequence[FeatureSet], blocked: str) -> tuple[list[FeatureSet], list[Cannot]]:
    """Features of the sessions of both cohorts, one below the other, and those that cannot be.

    Parameters
    ----------
    blocked : str
        Why features of channels cannot be; empty if they can.
    """
    found, cannot = [], []
    partners = {(features.model, features.method): features for features in there}
    for features in here:
        if features.model in _BLIND:
            continue
        partner = partners.get((features.model, features.method))
        reason = blocked
        if not reason and (partner is None or partner.data.shape[1:] != features.data.shape[1:]):
            reason = "its features are not the same in both cohorts"
        if reason or partner is None:
            cannot.append(Cannot(model=features.model, method=features.method, reason=reason))
        else:
            found.append(replace(features, data=np.concatenate([features.data, partner.data])))
    return found, cannot


def _blind_baselines(sides: Sequence[Side], exclude: Sequence[str]) -> list[FeatureSet]:
    """Confounds of the participants of both cohorts, and the majority."""
    rows: list[Mapping[str, str]] = []
    for side in sides:
        told = confound_rows(side.store, side.target.keys)
        rows += [{**row, **more} for row, more in zip(told, side.target.known or ({},) * len(told), strict=True)]
    known = confounds(rows, exclude)
    return [*([known] if known else []), majority(len(rows))]
