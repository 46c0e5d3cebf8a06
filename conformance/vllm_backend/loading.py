"""Imports vLLM's backend, from an installed vLLM of a version that the adapter knows."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any

from packaging.version import InvalidVersion, Version

from conformance.backends import BackendNotReady
from conformance.targets import Target
from conformance.vllm_backend import platform

OLDEST = Version("0.19")
"""The first vLLM whose backend builds its metadata as those since do; none before it was tried."""

MODULE = "vllm.v1.attention.backends.rocm_aiter_fa"
REMEDY = "tox -e vllm installs one, docs/using.md says what it needs"


def version() -> str:
    """The version of the installed vLLM. Raises BackendNotReady where there is none, or one too old."""
    try:
        found = metadata.version("vllm")
        known = Version(found)
    except metadata.PackageNotFoundError:
        raise BackendNotReady(f"backend vllm needs vLLM, which is not installed: {REMEDY}") from None
    except InvalidVersion as error:
        raise BackendNotReady(f"backend vllm cannot tell how old the installed vLLM is: {error}") from None
    if known.release < OLDEST.release:
        raise BackendNotReady(f"backend vllm needs vLLM {OLDEST} or newer, not {found}: {REMEDY}")
    return found


def load(target: Target) -> Any:
    """The module of vLLM's ROCm AITER backend. Raises BackendNotReady, in a sentence that names the cause."""
    found = version()
    if importlib.util.find_spec("vllm") is None:
        raise BackendNotReady(f"vLLM {found} is said to be installed, and cannot be found")
    try:
        with _quiet():
            return _import(target)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").split(".")[0]
        if package == "vllm":
            raise BackendNotReady(f"vLLM {found} has no module {missing.name}") from missing
        why = f"needs the package {package!r}, which is not installed"
        raise BackendNotReady(f"vLLM {found} {why}: {REMEDY}") from missing
    except BackendNotReady:
        raise
    except Exception as error:  # whatever a large package does when it is imported
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendNotReady(f"vLLM {found} does not import here: {type(error).__name__}: {first}") from error


def _import(target: Target) -> ModuleType:
    with platform.as_rocm(target):
        return importlib.import_module(MODULE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps vLLM from reporting each operator that is not built, unless its user has asked for reports."""
    name = "VLLM_LOGGING_LEVEL"
    chosen = os.environ.get(name)
    os.environ.setdefault(name, "ERROR")
    try:
        yield
    finally:
        if chosen is None:
            os.environ.pop(name, None)
