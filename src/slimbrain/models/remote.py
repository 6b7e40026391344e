"""Models on the Hugging Face hub: fetched from it or from the cache, and put there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slimbrain.errors import InputError
from slimbrain.models.shipped import model_sources

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""Endings of files that run code when they are read."""


def fetch(name: str, revision: str | None, files: Sequence[str]) -> Path:
    """The folder of a model of the hub: downloaded, or from the cache where the hub cannot be reached.

    Parameters
    ----------
    name : str
        Hub id, `lab/model`.
    revision : str or None
        Branch, tag or commit; the default branch if None.
    files : sequence of str
        What to take, if it is there.

    Raises
    ------
    InputError
        If there is no such model, or it can neither be reached nor is in the cache.
    """
    from huggingface_hub import snapshot_download

    with _one_sentence(name, f"and the cache has no whole copy of it; check the name or the network, or give {model_sources(name)}"):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))


def pickles_of(name: str, revision: str | None) -> list[str]:
    """Files of a model of the hub that are pickles; none where the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        with _one_sentence(name, "to be asked"):
            return pickles(HfApi().list_repo_files(name, revision=revision))
    except InputError:
        return []


def pickles(names: Sequence[str]) -> list[str]:
    """Those of the files that are pickles."""
    return sorted(name for name in names if name.endswith(_PICKLES))


def put(
    folder: Path,
    name: str,
    files: Sequence[str],
    stale: Sequence[str],
    private: bool,
    revision: str | None,
    token: str | None,
    message: str,
) -> str:
    """Upload a model folder in one commit; the address of the commit.

    Parameters
    ----------
    files : sequence of str
        What to upload, of what the folder holds.
    stale : sequence of str
        Files to delete there where the folder has none.

    Raises
    ------
    InputError
        If it is refused, or the hub cannot be reached, or `private` is asked of what is public.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _one_sentence(name, "so nothing was uploaded; check the network"):
        api.create_repo(name, private=private, exist_ok=True)
        # One that is there keeps its visibility, whatever `private` says.
        if private and not api.model_info(name).private:
            raise InputError(f"{name}: is public on the hub; make it private there, choose another name, or say private=False.")
        if revision:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(files),
            delete_patterns=list(stale),
            revision=revision,
            commit_message=message,
        )
    return str(commit.commit_url)


@contextmanager
def _one_sentence(name: str, unreachable: str) -> Iterator[None]:
    """Whatever the hub's library raises, as an InputError that names the way out.

    Parameters
    ----------
    unreachable : str
        What follows from a hub that does not answer.
    """
    from huggingface_hub import errors

    transport: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name}: is given on request; ask for access on its page on the hub, then log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name}: has no such revision on the hub; give a branch, tag or commit that it has.") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: is neither a folder here nor a model that the hub shows you; check the name, log in with `hf auth login`, or give "
            f"{model_sources(name)}."
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise InputError(f"{name}: the hub does not know you; log in with `hf auth login`.") from error
    except errors.HFValidationError as error:
        raise InputError(f"{name}: is neither a folder here nor a name that the hub could have; give lab/model.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "log in with `hf auth login` as somebody who may" if status in (401, 403) else "try again later"
        raise InputError(f"{name}: the hub refused with status {status}; {advice}.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, transport, OSError) as error:
        raise InputError(f"{name}: the hub cannot be reached ({type(error).__name__}) {unreachable}.") from error
