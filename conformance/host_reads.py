"""Noticing host code that reads a value of the device: it waits for the device, and cannot be captured in a graph."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class HostRead(Exception):
    """Host code read a value, or a size that depends on one; the message says what read it, and where."""


@contextmanager
def refused() -> Iterator[None]:
    """Raises HostRead where host code reads a value of a tensor, on any device; at the end, if it was caught meanwhile.

    Python's ways to read are replaced, not watched by torch's modes alone: a mode is not in force within an operator
    that is written in Python, as AITER's are. What torch's own C++ reads is seen as operators.
    """
    reads: list[HostRead] = []
    with ExitStack() as stack:
        for owner, names in ((torch.Tensor, METHODS), (torch, FUNCTIONS)):
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, _noticed(getattr(owner, name), name, reads)))
        stack.enter_context(_Operators(reads))
        yield
    if reads:
        raise reads[0]


FUNCTIONS = ("allclose", "argwhere", "bincount", "equal", "is_nonzero", "masked_select", "nonzero",
             "repeat_interleave", "unique", "unique_consecutive")  # fmt: skip
"""Of torch: what reads values, or has a result whose size depends on them."""

METHODS = (*(name for name in FUNCTIONS if hasattr(torch.Tensor, name)), "item", "tolist", "cpu", "to", "numpy",
           "__bool__", "__int__", "__float__", "__index__", "__complex__", "__repr__", "__format__", "__array__",
           "__contains__", "__getitem__", "__setitem__")  # fmt: skip
"""Of tensors: the same."""

OPERATORS = frozenset(
    ("_local_scalar_dense", "_unique", "_unique2", "bincount", "equal", "is_nonzero", "item", "masked_select",
     "nonzero", "unique_consecutive", "unique_dim")
)  # fmt: skip
"""Of ATen: the same."""


def _noticed(reading: Callable[..., Any], name: str, reads: list[HostRead]) -> Callable[..., Any]:
    @functools.wraps(reading)
    def read(*args: Any, **kwargs: Any) -> Any:
        if _reads(name, args, kwargs):
            _notice(name, reads)
        return reading(*args, **kwargs)

    return read


def _reads(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "to":  # where all tensors are on the CPU, a device that is spelled out was meant
        return "cpu" in [x for x in (*args[1:], *kwargs.values()) if isinstance(x, str)] or _moves_to_host(args, kwargs)
    if name == "__getitem__":
        return _is_mask(args[1])
    if name == "__setitem__":  # one number is put where a mask says without looking, several are counted
        return _is_mask(args[1]) and isinstance(args[2], torch.Tensor) and args[2].dim() > 0
    return name != "repeat_interleave" or _counts_repeats(args, kwargs)


def _counts_repeats(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """As many rows as a tensor says, unless the caller says how many that makes."""
    return isinstance((*args, *kwargs.values())[min(1, len(args) - 1)], torch.Tensor) and not kwargs.get("output_size")


def _is_mask(index: Any) -> bool:
    indices = index if isinstance(index, list | tuple) else (index,)
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _moves_to_host(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    device = next((x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.device)), None)
    return device is not None and device.type == "cpu" and any(
        isinstance(x, torch.Tensor) and x.device.type != "cpu" for x in args
    )  # fmt: skip


class _Operators(TorchDispatchMode):
    def __init__(self, reads: list[HostRead]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        mask = name == "index" and _is_mask(args[1])
        if name in OPERATORS or mask or _moves_to_host(args, kwargs):
            _notice(name, self.reads)
        return func(*args, **kwargs)


def _notice(name: str, reads: list[HostRead]) -> None:
    reader = _reader()
    if reader is None:
        return
    place = f"{'/'.join(reader.f_code.co_filename.split('/')[-3:])}:{reader.f_lineno}"
    reads.append(HostRead(f"host code reads a value of the device: {name} in {reader.f_code.co_name} ({place})"))
    raise reads[-1]


def _reader() -> FrameType | None:
    """The frame that reads; None if Triton's interpreter is behind it, which plays the device and may read anything."""
    frame: FrameType | None = sys._getframe(1)
    reader = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.endswith("triton/runtime/interpreter.py"):
            return None
        if reader is None and file != __file__ and "/torch/" not in file:
            reader = frame
        frame = frame.f_back
    return reader
