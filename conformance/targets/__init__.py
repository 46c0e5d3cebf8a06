"""Targets: where a Triton kernel runs. One per process, activated before Triton is imported."""

from __future__ import annotations

from collections.abc import Callable

import torch

from conformance.targets import gpu, interpreter
from conformance.targets.target import Target, TargetError

__all__ = ["Target", "TargetError", "activate"]

_SPECS: dict[str, Callable[[], Target]] = {
    "gpu": gpu.activate,
    "interpreter": interpreter.activate,
    "interpreter:gfx942": lambda: interpreter.activate("gfx942"),
    "interpreter:gfx950": lambda: interpreter.activate("gfx950"),
    "cpu": lambda: Target("cpu", "cpu", torch.device("cpu")),
}

_active: Target | None = None


def activate(spec: str) -> Target:
    """Makes this process run kernels on the target that `spec` names; a process has one target, so a second one is a TargetError."""
    global _active
    if spec not in _SPECS:
        raise TargetError(f"unknown target {spec!r}: choose one of {', '.join(_SPECS)}")
    if _active is None:
        _active = _SPECS[spec]()
    elif not _names(spec, _active):
        raise TargetError(f"this process runs on target {_active.name}, and a process has one target: start another for {spec}")
    return _active


def _names(spec: str, target: Target) -> bool:
    full = f"interpreter:{interpreter.DEFAULT_ARCH}" if spec == "interpreter" else spec
    return full in (target.name, target.kind if target.kind == "gpu" else target.name)
