"""The errors a user can act on: one class per kind, one sentence each, naming the file, the cause and the way out."""

from __future__ import annotations


class SlimbrainError(Exception):
    """Base of every error this package raises on purpose; the command line prints it without a traceback.

    Examples
    --------
    >>> from slimbrain import Store
    >>> try:
    ...     Store("nowhere")
    ... except SlimbrainError as error:
    ...     print(error)
    nowhere: is not a store: there is no such folder; point at the output of `slimbrain prep`.
    """


class InputError(SlimbrainError):
    """An input of the user (a recording, a mask, an option) cannot be used as it is."""


class StoreError(SlimbrainError):
    """A store, or a file inside it, is missing, damaged or not writable."""


class ContractError(SlimbrainError):
    """Two things that must share a lattice, mask, space, TR or window length do not."""


class ReportedError(SlimbrainError):
    """A command that another one ran has failed, and has printed its own sentence; nothing is left to say.

    Parameters
    ----------
    message : str
        Which command it was.
    exit_code : int
        Its exit code, which becomes that of the command around it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrainingOverlapWarning(UserWarning):
    """Embeddings are of participants that the model was trained on: predictions for them say little about others.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("ignore", TrainingOverlapWarning)  # once you know
    """


class TransformWarning(UserWarning):
    """The sform and the qform of a mask, an atlas or a map put it at two places; it says which was believed."""


class CollapseError(SlimbrainError):
    """An encoder gives the same output for every input; training it further would only hide that."""
