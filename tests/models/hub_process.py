"""Calls of slimbrain in processes of their own, each with its own hub and cache: the hub's library reads its settings once, on import."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any


def processes() -> ProcessPoolExecutor:
    """One new process a call, forked from a server that has torch loaded and the hub's library not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slimbrain.models.temporal", "safetensors.torch"])
    return ProcessPoolExecutor(1, context, max_tasks_per_child=1)


def call(name: str, arguments: tuple[Any, ...], options: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """What `slimbrain.NAME` gives as text, a model by its class; or its error, with the error's class."""
    for setting in [name for name in os.environ if name.lower().startswith(("hf_", "hugging", "http_proxy"))]:
        del os.environ[setting]
    os.environ.update({"NO_PROXY": "*", "no_proxy": "*", **environment})
    import slimbrain

    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            given = getattr(slimbrain, name)(*arguments, **options)
    except slimbrain.errors.SlimbrainError as error:
        return f"{type(error).__name__}: {error}"
    return given if isinstance(given, str) else type(given).__name__
