"""The compile target: Triton builds AITER's kernels for an AMD GPU that is not there, and runs none of them."""

from __future__ import annotations

import os

import torch

from conformance.targets.hip_driver import compute_units, stand_in
from conformance.targets.target import Target, TargetError, missing_triton, refuse_to_interpret


def activate(arch: str) -> Target:
    """Makes every Triton launch of this process build its kernel for `arch`, for good; tensors live on the CPU.

    Raises TargetError where Triton is absent, interprets, or cannot build for AMD, or for `arch` alone.
    """
    units = compute_units(arch)
    refuse_to_interpret(f"target compile:{arch} is to build")
    if other := os.environ.get("TRITON_OVERRIDE_ARCH"):
        raise TargetError(f"TRITON_OVERRIDE_ARCH is set, so that Triton would build for {other}, not {arch}: unset it")
    try:
        import triton
        from triton.backends import backends
    except ModuleNotFoundError as absent:
        raise missing_triton("compile", absent) from absent
    if "amd" not in backends:
        raise TargetError(f"Triton {triton.__version__} as installed here has no backend for AMD's GPUs")
    stand_in(arch, units, "compiled for")

    from conformance.targets import compiled_launch

    compiled_launch.build_instead_of_launching(arch)
    return Target("compile", arch, torch.device("cpu"))
