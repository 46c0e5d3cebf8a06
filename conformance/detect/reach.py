"""Which lines of the kernel modules run: in the interpreter kernels are Python, and keep their file's line numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from conformance.detect.kernels import KernelModule

Lines = dict[str, set[int]]


@contextmanager
def traced(modules: list[KernelModule]) -> Iterator[Lines]:
    """Collects the lines that run, by the module's name, until the context ends."""
    lines: Lines = {module.name: set() for module in modules}
    tracers = {module.file: _tracer(lines[module.name]) for module in modules}

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return tracers.get(frame.f_code.co_filename)

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield lines
    finally:
        sys.settrace(before)


def _tracer(lines: set[int]) -> Callable[[FrameType, str, Any], Any]:
    def on_event(frame: FrameType, _event: str, _argument: Any) -> Any:
        lines.add(frame.f_lineno)
        return on_event

    return on_event
