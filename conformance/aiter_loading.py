"""Imports AITER's Triton kernels, and nothing else of AITER unless it was built for this GPU."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conformance import aiter_launch_options
from conformance.targets import Target

if TYPE_CHECKING:
    from conformance.aiter_source import AiterSource


Hear = Callable[[str, str, Callable[..., Any]], Callable[..., Any]]
"""Given a module, a function's name and the function: what is to be called in its place."""

_hearing: list[Hear] = []


class AiterNotLoadable(Exception):
    """AITER is there but its kernels cannot be had; the message is one sentence that names the cause."""


class KernelAbsent(AiterNotLoadable):
    """AITER is there, and has no such kernel: an older or newer one may."""


def attention_modules(name: str) -> tuple[str, str]:
    """A Triton module of AITER's attention kernels, in the layout since 2026-01 and in the one before."""
    return f"aiter.ops.triton.attention.{name}", f"aiter.ops.triton.{name}"


def load_kernel(source: AiterSource, target: Target, module_names: Sequence[str], function: str) -> Callable[..., Any]:
    """`function` of the first of `module_names` that `source` holds; AiterNotLoadable if it cannot be had.

    KernelAbsent where no module of these names, or no such function in it, is there.

    A process loads one AITER: two would share module names, Triton's caches and torch's registry of operators.
    """
    if target.kind == "cpu":
        raise AiterNotLoadable(f"AITER {source.described} has Triton kernels, which target cpu does not run")
    name = next((name for name in module_names if _holds(source.root, name)), None)
    if name is None:
        raise KernelAbsent(f"AITER {source.described} has no module {' or '.join(module_names)}")
    _provide_package(source, target)
    module = _import(name, source)
    try:
        kernel = getattr(module, function)
    except AttributeError:
        raise KernelAbsent(f"AITER {source.described} has no {function} in {name}") from None
    for hear in _hearing:
        kernel = hear(name, function, kernel)
    return kernel


@contextmanager
def heard_by(hear: Hear) -> Iterator[None]:
    """Each kernel that is loaded meanwhile is called through what `hear` makes of it."""
    _hearing.append(hear)
    try:
        yield
    finally:
        _hearing.remove(hear)


def is_rocm_build(source: AiterSource, target: Target) -> bool:
    """Are AITER's CK and HIP kernels to be had? An installed one was built for the GPU that is here."""
    return source.origin == "installed" and target.kind == "gpu" and bool(torch.version.hip)


def _holds(root: Path, module_name: str) -> bool:
    # Looked up as a file: newer AITERs import modules under their old names too, and an import may fail otherwise.
    path = root.joinpath(*module_name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _provide_package(source: AiterSource, target: Target) -> None:
    """Puts `aiter` of `source` into `sys.modules`."""
    present = sys.modules.get("aiter")
    if present is not None:
        folder = next(iter(present.__path__), "") if hasattr(present, "__path__") else ""
        if Path(folder).resolve() != (source.root / "aiter").resolve():
            imported = f"this one has imported aiter from {folder or present}"
            raise AiterNotLoadable(f"AITER {source.described} needs a process of its own: {imported}")
    elif is_rocm_build(source, target):
        _import("aiter", source)
    else:
        sys.modules["aiter"] = _bare_package(source.root / "aiter")
        with suppress(Exception):  # what does not import fails a kernel that needs it again, and says so there
            aiter_launch_options.lend(target, source.root)


def _bare_package(folder: Path) -> Any:
    """A package `aiter` whose submodules import as usual, without AITER's `__init__`, which imports CK and HIP parts.

    It is the one way that works for every AITER: AITER_TRITON_ONLY=1 is honoured by newer ones only.
    """
    spec = ModuleSpec("aiter", loader=None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return importlib.util.module_from_spec(spec)


def _import(name: str, source: AiterSource) -> Any:
    try:
        with _quiet(), _plain_operator_names():
            return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").split(".")[0]
        if package not in ("aiter", "triton", ""):
            why = f"which is not installed ({_aiter_module_of(missing) or name} imports it)"
            raise AiterNotLoadable(f"AITER {source.described} needs the package {package!r}, {why}") from missing
        raise _does_not_import(name, source, missing) from missing
    except Exception as error:
        raise _does_not_import(name, source, error) from error


def _does_not_import(name: str, source: AiterSource, error: Exception) -> AiterNotLoadable:
    where = _aiter_module_of(error) or name
    cause = textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
    triton = getattr(sys.modules.get("triton"), "__version__", "(absent)")
    return AiterNotLoadable(f"AITER {source.described} does not import under Triton {triton}: {where}: {cause}")


def _aiter_module_of(error: Exception) -> str:
    """The AITER module whose code was running when `error` was raised, innermost; "" if none was."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((module for module in reversed(modules) if module.split(".")[0] == "aiter"), "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps an import of AITER silent: it turns on Triton's autotuning reports, and uses deprecated Triton options."""
    name = "TRITON_PRINT_AUTOTUNING"
    chosen = os.environ.get(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            if chosen is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = chosen


@contextmanager
def _plain_operator_names() -> Iterator[None]:
    """Lets AITER register its operators with torch under their own names.

    Up to 0.1.18 it defines `aiter::name` within the namespace `aiter`, which torch from 2.13 on takes for
    `aiter::aiter::name`, and fails over when the process ends.
    """
    define = torch.library.Library.define

    def define_plainly(self: Any, schema: str, *args: Any, **options: Any) -> Any:
        return define(self, schema.removeprefix(f"{self.ns}::"), *args, **options)

    torch.library.Library.define = define_plainly
    try:
        yield
    finally:
        torch.library.Library.define = define
