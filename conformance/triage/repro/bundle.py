"""The files of a bundle: the tensors, with their strides and the memory between them; the script; the issue's text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from conformance.triage.repro.expected import Expected
from conformance.triage.repro.heard import KernelCall

TENSORS, SCRIPT, ISSUE = "tensors.safetensors", "reproduce.py", "issue.md"

WHOLE = 16
"""Memory is padded to a multiple of so many bytes, so that it can be viewed in any dtype."""


@dataclass(frozen=True)
class Stored:
    """What goes to the file of tensors.

    `tensors` are the bytes of each storage once, however many arguments share it, and what is expected; `views` say of
    each argument in which storage it is, its dtype, shape, strides and offset in elements.
    """

    tensors: dict[str, Tensor]
    views: dict[str, tuple[str, str, list[int], list[int], int]]

    @classmethod
    def of(cls, call: KernelCall, expected: Expected | None) -> Stored:
        names = {address: f"memory{number}" for number, address in enumerate(call.memory)}
        tensors = {names[address]: _padded(memory) for address, memory in call.memory.items()}
        if expected is not None:
            tensors |= {"out": expected.out, "out.bound": expected.bound, "out.noise": expected.variance.sqrt()}
            if expected.lse is not None and expected.lse_bound is not None:
                tensors |= {"lse": expected.lse, "lse.bound": expected.lse_bound}
        views = {
            name: (
                names[x.untyped_storage().data_ptr()],
                str(x.dtype).removeprefix("torch."),
                list(x.shape),
                list(x.stride()),
                int(x.storage_offset()),
            )
            for name, x in call.tensors.items()
        }
        return cls({name: tensor.contiguous() for name, tensor in tensors.items()}, views)

    def write(self, path: Path) -> None:
        """As safetensors, the views in its metadata. Raises OSError."""
        from safetensors.torch import save

        path.write_bytes(save(self.tensors, {"arguments": json.dumps(self.views)}))


def _padded(memory: Tensor) -> Tensor:
    return torch.cat([memory, memory.new_zeros(-len(memory) % WHOLE)])
