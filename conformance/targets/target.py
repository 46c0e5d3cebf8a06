"""What a target is: the place where a Triton kernel runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch


class TargetError(Exception):
    """A target cannot be used here; the message is one sentence that says why."""


FP8 = {"gfx942": "e4m3fnuz", "gfx950": "e4m3fn"}
"""The float8 that an arch of AMD's computes with: what a server stores in its cache there, and AITER takes."""


@dataclass(frozen=True)
class Target:
    """Where kernels run; `device` is where their tensors live."""

    kind: str
    """"gpu", "interpreter" or "cpu"."""
    arch: str
    """"gfx942", "sm_90", or "cpu" where no Triton kernel runs."""
    device: torch.device

    @property
    def fp8(self) -> str:
        """The float8 that the arch computes with; "" where none is known."""
        return FP8.get(self.arch, "e4m3fn" if self.arch.startswith("sm_") else "")

    @property
    def name(self) -> str:
        """The readable name, which for the interpreter and the CPU is also the spec that activates it."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.arch}"
