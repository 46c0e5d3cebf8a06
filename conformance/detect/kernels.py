"""The kernel modules under test, found by the kernels' names, and a mutated kernel put in their place."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conformance.detect.source_text import SourceText

KERNELS = {"decode": "_fwd_kernel_splitK", "unified": "kernel_unified_attention_2d"}
"""A kernel of each path of the dispatch, kvcache and unified. The module that defines it, elsewhere in older versions
of AITER, defines those that it works with too."""


class NoKernels(Exception):
    """The kernels to mutate are not there, in one sentence."""


@dataclass(frozen=True)
class KernelModule:
    """An imported module of interpreted kernels."""

    name: str
    file: str

    @cached_property
    def text(self) -> str:
        return Path(self.file).read_text(encoding="utf-8")

    @cached_property
    def _source(self) -> SourceText:
        return SourceText(self.text)

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that `triton.jit` decorates."""
        return tuple(function.name for function in self._source.jitted())

    def functions_at(self, lines: frozenset[int]) -> Iterator[str]:
        """Those of `functions` that hold any of `lines`."""
        for function in self._source.jitted():
            if not lines.isdisjoint(range(function.lineno, (function.end_lineno or function.lineno) + 1)):
                yield function.name

    def interpreted(self, function: str) -> Any:
        """What Triton's interpreter made of a function, taken out of an autotuner where it is in one."""
        return _interpreted(getattr(sys.modules[self.name], function))

    def put_in_place(self, functions: tuple[str, ...], text: str) -> None:
        """Lets `functions` be what `text`, a version of this module, makes of them; for good, so in a child.

        What a function's object interprets is replaced, not the object: whoever imported it, or wrapped it in an
        autotuner, holds the right one. The interpreter asks `linecache` for a kernel's source, which is told the text
        here: a file could not be written for reasons of the machine, and Triton would run the kernel unrewritten.
        """
        copy = f"{self.file} (copy)"
        linecache.cache[copy] = (len(text), None, text.splitlines(keepends=True), copy)  # None: never compared to disk
        names: dict[str, Any] = {"__name__": self.name, "__package__": self.name.rpartition(".")[0], "__file__": copy}
        exec(compile(text, copy, "exec"), names)
        for function in functions:
            old, new = self.interpreted(function), _interpreted(names[function])
            old.fn, old.rewriter = new.fn, new.rewriter
            old.rewrite()


def find(which: tuple[str, ...]) -> list[KernelModule]:
    """The modules that define the kernels of `which`, keys of KERNELS, as AITER imported them. Raises NoKernels."""
    found: dict[str, KernelModule] = {}
    for kernel in map(KERNELS.__getitem__, which):
        defined = list(_imported(kernel))
        if not defined:
            raise NoKernels(f"this AITER's dispatch uses no kernel {kernel}")
        found |= {function.__module__: KernelModule(function.__module__, _file(function)) for function in defined}
    return [found[name] for name in sorted(found)]


def _imported(kernel: str) -> Iterator[Any]:
    """The Python functions that AITER's modules know as `kernel`."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "aiter" and (value := vars(module).get(kernel)) is not None:
            yield _interpreted(value).fn


def _file(function: Any) -> str:
    return function.__code__.co_filename


def _interpreted(kernel: Any) -> Any:
    while not hasattr(kernel, "rewriter"):
        if not hasattr(kernel, "fn"):
            raise NoKernels(f"{kernel!r} is no kernel of Triton's interpreter")
        kernel = kernel.fn
    return kernel
