"""Launches that build a kernel and do not run it.

Importing this module imports Triton; only an activated compile target does so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from conformance.targets.built_kernel import BuiltKernel

_built: dict[str, BuiltKernel] = {}
"""By Triton's own key of a specialisation."""

_launched: list[BuiltKernel] = []


class DoesNotFit(OutOfResources):
    """A kernel that no workgroup of the arch can run: Triton's autotuner then passes over it, as it would on a GPU."""

    def __init__(self, lacks: str) -> None:
        self.message = f"out of resources: {lacks}"


def build_instead_of_launching(arch: str) -> None:
    """Makes every Triton launch of this process build its kernel for the active driver's target, and end there.

    `JITFunction.run` is the one door: a direct launch, `Autotuner` (once for each config that it tries) and
    `Heuristics` go through it. A launch then raises DoesNotFit, or whatever Triton raises where a kernel does not
    compile.
    """
    launch = JITFunction.run

    @functools.wraps(launch)
    def build(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled: Any = launch(self, *args, grid=grid, warmup=True, **options)
        if not warmup:
            kernel = _built.setdefault(compiled.hash, BuiltKernel.of(compiled))
            _launched.append(kernel)
            if lacks := kernel.lacks(arch):
                raise DoesNotFit(lacks)
        return compiled

    JITFunction.run = build


@contextmanager
def launched() -> Iterator[list[BuiltKernel]]:
    """What is launched from here on, as it comes."""
    _launched.clear()
    yield _launched
