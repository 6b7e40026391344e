"""The errors a user can act on: one class a kind, one sentence each, naming the file, the cause and the way out."""

from __future__ import annotations


class SlimbrainError(Exception):
    """Base of every error this package raises on purpose; the command line prints it without a traceback."""


class InputError(SlimbrainError):
    """Something the user handed in (a recording, a mask, an option) cannot be used as it is."""


class StoreError(SlimbrainError):
    """A store, or a file inside it, is missing, damaged or not writable."""


class ContractError(SlimbrainError):
    """Two things that must share a lattice, mask, space, TR or window length do not."""


class TrainingOverlapWarning(UserWarning):
    """Sessions are embedded of participants whom the model was trained on: what is predicted of them says little of others."""


class CollapseError(SlimbrainError):
    """An encoder says the same of everything it sees; training it further would only hide that."""
