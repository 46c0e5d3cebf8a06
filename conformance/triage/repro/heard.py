"""The call of AITER that a backend makes: the function, its arguments, and the memory behind them before it ran."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class KernelCall:
    """One call of a function of AITER's.

    `arguments` by their names, in the order of the call; `memory` has the bytes of each storage behind its tensors,
    uint8 on the CPU, by the storage's address, as they were before the call.
    """

    module: str
    function: str
    arguments: dict[str, Any]
    memory: dict[int, Tensor]
    returned: Any = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The arguments that are tensors."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}


class NotCalled(Exception):
    """A call was heard, and not made."""


@dataclass
class Ear:
    """Hears the calls of every kernel that is loaded through it; keeps the first, and counts them.

    With `instead` in place a kernel is not run: that answers, given the arguments by name. What kills its process is
    only heard: with `stops` the first call raises NotCalled once it is kept.
    """

    first: KernelCall | None = None
    count: int = 0
    stops: bool = False
    instead: Callable[[dict[str, Any]], Any] | None = field(default=None, repr=False)

    def hear(self, module: str, function: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """The kernel, heard, as `conformance.aiter_loading.heard_by` wants it; as it is if it has no signature."""
        try:
            names = list(inspect.signature(kernel).parameters)
        except ValueError:  # a compiled function may have no signature
            return kernel

        @functools.wraps(kernel)
        def heard(*positional: Any, **named: Any) -> Any:
            arguments = dict(zip(names, positional, strict=False)) | named
            if self.instead is not None:
                return self.instead(arguments)
            self.count += 1
            if self.count > 1:
                return kernel(*positional, **named)
            self.first = KernelCall(module, function, arguments, _memory_of(arguments))
            if self.stops:
                raise NotCalled(function)
            self.first.returned = kernel(*positional, **named)
            return self.first.returned

        return heard


def _memory_of(arguments: dict[str, Any]) -> dict[int, Tensor]:
    kept: dict[int, Tensor] = {}
    for value in arguments.values():
        if isinstance(value, Tensor) and (address := value.untyped_storage().data_ptr()) not in kept:
            storage = value.untyped_storage()
            kept[address] = torch.empty(0, dtype=torch.uint8, device=value.device).set_(storage).cpu().clone()
    return kept
