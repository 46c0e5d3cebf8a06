"""Tensors that pass for a GPU's where there is none, for host code that insists on one before it launches a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class OnTheGPU(Tensor):
    """A tensor that says it is a GPU's. What is computed of it says so too."""

    is_cuda: Any = property(lambda _: True)  # a method descriptor of Tensor's


@contextmanager
def passing_for_a_gpus(tensor: Tensor) -> Iterator[Tensor]:
    """The same tensor, said to be on the current GPU: one whose index is that of a CPU tensor's device, None."""
    if tensor.is_cuda:
        yield tensor
        return
    current = torch.cuda.current_device
    torch.cuda.current_device = lambda: tensor.device.index
    try:
        yield tensor.as_subclass(OnTheGPU)
    finally:
        torch.cuda.current_device = current
