"""Mends of how Triton's interpreter launches a kernel: quieter, and several times faster, with the same results.

Left alone, it replaces the whole of `triton.language` anew for every call of every device function, and checks every
integer operation for overflow only to drop the answer (the check asserts in debug builds alone).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from conformance.targets import interpreter_shortcuts
from conformance.targets.triton_internals import known


def mend(interpreter: Any) -> None:
    """Shortens and quietens launches; `interpreter` is the module `triton.runtime.interpreter`."""
    options = known(interpreter.interpreter_builder, "options")
    known(options, "sanitize_overflow")
    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    _silence(interpreter.GridExecutor)
    interpreter_shortcuts.take(interpreter)
    interpreter._patch_lang = _InterpretedLanguage(interpreter)


class _InterpretedLanguage:
    """`triton.language` as the interpreter sees it: put in place when a launch begins, taken away when it ends.

    It stands for Triton's `_patch_lang`, which returns a scope to `restore`, and is that scope too.
    """

    def __init__(self, interpreter: Any) -> None:
        self._patch_lang = known(interpreter, "_patch_lang", "fn")
        self._absent = known(interpreter, "_MISSING")
        self._semantic = known(interpreter, "interpreter_semantic")
        self._interpreter = interpreter
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._in_place = False

    def __call__(self, _kernel: Any) -> _InterpretedLanguage | _NothingReplaced:
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

        known(self._interpreter, "_patch_attr", "obj", "name", "member", "builder", "scope")
        self._interpreter._patch_attr = self._replace_builtin
        scope = self._patch_lang(FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core}))
        interpreter_shortcuts.take_in_language(scope)
        # A member may be replaced twice over; its first original and its last replacement count.
        originals = {(id(owner), name): (owner, name, original) for owner, name, original in reversed(scope._changes)}
        replaced = [(owner, name, original, getattr(owner, name)) for owner, name, original in originals.values()]
        scope.restore()
        return replaced

    def _replace_builtin(self, owner: Any, name: str, builtin: Any, _builder: Any, scope: Any) -> None:
        """Binds a builtin of the language to the interpreter: Triton's `_patch_attr`, less two calls around each."""
        scope.set_attr(owner, name, _bound(_unchecked(builtin), self._semantic))


class _NothingReplaced:
    """The scope of a call within a launch."""

    def restore(self) -> None:
        pass


def _unchecked(builtin: Any) -> Any:
    """A builtin without what its decorator puts around it, the check that it was called from a kernel."""
    from triton.language import core

    is_decorated = getattr(builtin, "__code__", None) is core.builtin(lambda: None).__code__
    return builtin.__wrapped__ if is_decorated else builtin


def _bound(builtin: Callable[..., Any], semantic: Any) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        options["_semantic"] = semantic
        return builtin(*args, **options)

    return call


def _silence(executor: Any) -> None:
    """Keeps NumPy from warning of what is ordinary in a kernel: masked lanes hold infinities and NaN."""
    launch = known(executor, "__call__", "self", "args_dev", "kwargs")

    @functools.wraps(launch)
    def quiet_launch(self: Any, *args: Any, **options: Any) -> None:
        with np.errstate(all="ignore"):
            launch(self, *args, **options)

    executor.__call__ = quiet_launch
