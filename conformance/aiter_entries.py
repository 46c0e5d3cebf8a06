"""A function of AITER's as a system under test of its own: how it is loaded, and how a case is declined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from conformance import guards
from conformance.aiter_source import AiterSource, attention_modules, load_kernel, required
from conformance.case import Case
from conformance.guards import Guarded
from conformance.status import Unsupported
from conformance.targets import Target
from conformance.targets.target import FP8


class Entry:
    """One function of `aiter.ops.triton.attention`, imported once a process.

    `prepare` and the target's arch are what a backend needs of it; to call it is to call AITER.
    """

    def __init__(self, module: str, function: str) -> None:
        self.module, self.function = module, function
        self.kernel: Callable[..., Any] | None = None
        self.arch = ""
        self.target_kind = ""

    def prepare(self, source: AiterSource | None, target: Target) -> None:
        """Import the function, from the layout since 2026-01 or before. Raises AiterNotFound or AiterNotLoadable."""
        self.kernel = load_kernel(required(source), target, attention_modules(self.module), self.function)
        self.arch, self.target_kind = target.arch, target.kind

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.kernel is None:
            raise RuntimeError(f"{self.function} is called before it was prepared")
        return self.kernel(*arguments, **named)

    def output(self, q: Tensor) -> Guarded:
        """What the function is to write to for `q` [T, Hq, D], if it takes an output; checked in the answer."""
        return guards.unwritten(self.function, q)

    def decline(self, *lacking: tuple[str, bool]) -> None:
        """Raises Unsupported for the first that is asked for; each is a feature, and whether it is asked for."""
        for feature, asked in lacking:
            if asked:
                raise Unsupported(f"{self.function} has no {feature}")

    def decline_foreign_float8(self, case: Case) -> None:
        """Raises Unsupported for a cache in a float8 that the arch does not compute with."""
        decline_foreign_float8(self.arch, "cache", case.cache_dtype)


def decline_foreign_float8(arch: str, what: str, dtype: str) -> None:
    """Raises Unsupported for a cache, or queries, in a float8 that the arch does not compute with; "" is none."""
    if dtype not in ("", own := FP8.get(arch, dtype)):
        raise Unsupported(f"a float8 {what} on {arch} is {own}, not {dtype}")


def sees_only_the_left(case: Case) -> bool:
    """Does no query look to its right, so that it makes no difference whether a kernel is told that it is causal?"""
    return case.causal or max(case.query_lens) == 1 or case.window[1] == 0
