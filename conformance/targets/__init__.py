"""Targets: where a Triton kernel runs, or is built for. One per process, activated before Triton is imported."""

from __future__ import annotations

from collections.abc import Callable

import torch

from conformance.targets import compiled, gpu, interpreter
from conformance.targets.target import Target, TargetError

__all__ = ["SPECS", "Target", "TargetError", "activate", "find"]

SPECS: dict[str, Callable[[], Target]] = {
    "gpu": gpu.activate,
    "interpreter": interpreter.activate,
    "interpreter:gfx942": lambda: interpreter.activate("gfx942"),
    "interpreter:gfx950": lambda: interpreter.activate("gfx950"),
    "compile:gfx942": lambda: compiled.activate("gfx942"),
    "compile:gfx950": lambda: compiled.activate("gfx950"),
    "cpu": lambda: Target("cpu", "cpu", torch.device("cpu")),
}

_active: list[Target] = []
"""The target of this process, once there is one."""


def activate(spec: str) -> Target:
    """Makes this process run kernels on the target that `spec` names, for good; TargetError for another one later."""
    if spec not in SPECS:
        raise TargetError(f"unknown target {spec!r}: choose one of {', '.join(SPECS)}")
    if not _active:
        _active.append(SPECS[spec]())
    target = _active[0]
    if not _names(spec, target):
        one = f"this process runs on target {target.name}, and a process has one target"
        raise TargetError(f"{one}: start another for {spec}")
    return target


def find(spec: str) -> Target:
    """The target that `spec`, one of `SPECS`, would activate here, activating none; TargetError where there is none."""
    kind, _, arch = spec.partition(":")
    if kind == "gpu":
        return gpu.find()
    return Target(kind, arch or {"interpreter": interpreter.DEFAULT_ARCH}.get(kind, kind), torch.device("cpu"))


def _names(spec: str, target: Target) -> bool:
    if spec == "interpreter":
        return target.name == f"interpreter:{interpreter.DEFAULT_ARCH}"
    return spec == target.name or spec == target.kind == "gpu"
