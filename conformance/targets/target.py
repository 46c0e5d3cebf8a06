"""What a target is: the place where a Triton kernel runs."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


class TargetError(Exception):
    """A target cannot be used here; the message is one sentence that says why."""


@dataclass(frozen=True)
class Target:
    """Where kernels run; `device` is where their tensors live."""

    kind: str
    """"gpu", "interpreter", "compile" (built, never run) or "cpu"."""
    arch: str
    """"gfx942", "sm_90", or "cpu" where no Triton kernel runs."""
    device: torch.device

    @property
    def name(self) -> str:
        """The readable name, which is also the spec that activates it, but for a GPU."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.arch}"


def refuse_to_interpret(what: str) -> None:
    """TargetError where Triton would interpret what "target gpu is to run", say."""
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y"):
        raise TargetError(f"TRITON_INTERPRET is set, so that Triton would interpret on the CPU what {what}: unset it")


def missing_triton(target: str, absent: ModuleNotFoundError) -> TargetError:
    """The refusal of a target that needs Triton, where it is absent."""
    remedy = 'pip install "aiter-conformance[triton]"'
    return TargetError(f"the {target} target needs Triton, which is not installed ({absent}): {remedy}")
