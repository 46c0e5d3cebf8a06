"""Launches that build a kernel and do not run it.

Importing this module imports Triton; only an activated compile target does so.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from conformance.targets.built_kernel import BuiltKernel

_built: dict[str, BuiltKernel] = {}
"""By Triton's own key of a specialisation; so is what was launched lately."""

_launched: dict[str, BuiltKernel] = {}


class DoesNotFit(OutOfResources):
    """A kernel that no workgroup of the arch can run: Triton's autotuner then passes over it, as it would on a GPU."""

    def __init__(self, lacks: str) -> None:
        self.lacks = lacks

    def __str__(self) -> str:
        return f"out of resources: {self.lacks}"


def build_instead_of_launching(arch: str) -> None:
    """Makes every Triton launch of this process build its kernel for the active driver's target, and end there.

    `JITFunction.run` is the one door: a direct launch, `Autotuner` (once for each config that it tries) and
    `Heuristics` go through it. A launch then raises DoesNotFit, or whatever Triton raises where a kernel does not
    compile, with notes: which kernel, and what LLVM said.
    """
    launch = JITFunction.run

    @functools.wraps(launch)
    def build(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        said: list[str] = []
        try:
            with _errors_printed(said):
                compiled: Any = launch(self, *args, grid=grid, warmup=True, **options)
        except Exception as error:
            error.add_note(f"building {_place(self.fn)}")
            if said:
                error.add_note(f"the compiler printed: {said[0]}")
            raise
        if not warmup:
            if compiled.hash not in _built:
                _built[compiled.hash] = BuiltKernel.of(compiled)
            kernel = _launched[compiled.hash] = _built[compiled.hash]
            if lacks := kernel.lacks(arch):
                raise DoesNotFit(lacks)
        return compiled

    JITFunction.run = build


def _place(function: Any) -> str:
    """`_fwd_kernel_splitK (_triton_kernels/flash_attn/fwd_decode.py:120)`."""
    code = function.__code__
    return f"{function.__name__} ({'/'.join(code.co_filename.split('/')[-3:])}:{code.co_firstlineno})"


@contextmanager
def _errors_printed(said: list[str]) -> Iterator[None]:
    """Adds to `said` what LLVM prints of errors, to file 2, for no exception says it; it is still printed."""
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            printed = file.read()
            os.write(2, printed)
            said += re.findall(r"error: *(.*)", printed.decode(errors="replace"))


@contextmanager
def launched() -> Iterator[dict[str, BuiltKernel]]:
    """Each specialisation that is launched from here on, in the order of its first launch."""
    _launched.clear()
    yield _launched
