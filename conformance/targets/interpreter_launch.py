"""Mends of how Triton's interpreter launches a kernel: quieter, and several times faster, with the same results.

Left alone, it replaces the whole of `triton.language` anew for every call of every device function, and checks every integer
operation for overflow only to drop the answer (the check asserts in debug builds alone).
"""

from __future__ import annotations

import dataclasses
import functools
from types import FunctionType
from typing import Any

import numpy as np


def mend(interpreter: Any) -> None:
    """Shortens and quietens launches; `interpreter` is the module `triton.runtime.interpreter`."""
    interpreter._patch_lang = _InterpretedLanguage(interpreter)
    interpreter._get_np_dtype = _remembered(interpreter._get_np_dtype)
    without_overflow_checks = dataclasses.replace(interpreter.InterpreterOptions(), sanitize_overflow=False)
    interpreter.interpreter_builder.options = without_overflow_checks
    _silence(interpreter.GridExecutor)


class _InterpretedLanguage:
    """`triton.language` as the interpreter sees it: put in place when a launch begins, taken away when it ends.

    It stands for `_patch_lang`, which returns a scope to `restore`, and is that scope too.
    """

    def __init__(self, interpreter: Any) -> None:
        self._patch_lang = interpreter._patch_lang
        self._absent = interpreter._MISSING
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._in_place = False

    def __call__(self, kernel: Any) -> _InterpretedLanguage | _NothingReplaced:
        if self._in_place:  # a device function, called from a kernel
            return _NothingReplaced()
        self._replaced = self._replaced or self._record()
        for owner, name, _, interpreted in self._replaced:
            setattr(owner, name, interpreted)
        self._in_place = True
        return self

    def restore(self) -> None:
        """Ends the launch."""
        for owner, name, compiled, _ in self._replaced:
            if compiled is self._absent:
                delattr(owner, name)
            else:
                setattr(owner, name, compiled)
        self._in_place = False

    def _record(self) -> list[tuple[Any, str, Any, Any]]:
        """All that Triton replaces for a kernel that sees the whole language: (owner, name, compiled, interpreted)."""
        import triton.language as tl

        sees_all = FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})
        scope = self._patch_lang(sees_all)
        # A member may be replaced twice over; its first original and its last replacement count.
        originals = {(id(owner), name): (owner, name, original) for owner, name, original in reversed(scope._changes)}
        replaced = [(owner, name, original, getattr(owner, name)) for owner, name, original in originals.values()]
        scope.restore()
        return replaced


class _NothingReplaced:
    """The scope of a call within a launch."""

    def restore(self) -> None:
        pass


def _remembered(np_dtype_of: Any) -> Any:
    """`_get_np_dtype`, which builds its whole table for each look-up, with the answers kept by the name of the scalar type."""
    known: dict[str, np.dtype] = {}

    def np_dtype(triton_dtype: Any) -> np.dtype:
        name = triton_dtype.scalar.name
        if name not in known:
            known[name] = np_dtype_of(triton_dtype)
        return known[name]

    return np_dtype


def _silence(executor: Any) -> None:
    """Keeps NumPy from warning of what is ordinary in a kernel: masked lanes hold infinities and NaN, as they do on hardware."""
    launch = executor.__call__

    @functools.wraps(launch)
    def quiet_launch(self: Any, *args: Any, **options: Any) -> None:
        with np.errstate(all="ignore"):
            launch(self, *args, **options)

    executor.__call__ = quiet_launch
