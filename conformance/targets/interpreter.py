"""The interpreter target: Triton's interpreter runs AITER's kernels on the CPU, and takes itself for an AMD GPU."""

from __future__ import annotations

import os

import torch

from conformance.targets.hip_driver import compute_units, stand_in
from conformance.targets.target import Target, TargetError, missing_triton

DEFAULT_ARCH = "gfx942"


def activate(arch: str = DEFAULT_ARCH) -> Target:
    """Turns this process into an interpreter of `arch`, for good.

    Raises TargetError where Triton is absent, was imported to compile, or has an interpreter that cannot be mended.
    """
    units = compute_units(arch)
    _import_interpreting_triton()
    from triton.runtime import interpreter

    from conformance.targets import interpreter_arithmetic, interpreter_launch

    interpreter_launch.mend(interpreter)
    interpreter_arithmetic.mend(interpreter)
    stand_in(arch, units, "interpreted")

    from conformance.targets import interpreter_probe

    interpreter_probe.check()
    return Target("interpreter", arch, torch.device("cpu"))


def _import_interpreting_triton() -> None:
    """Imports Triton so that every `@triton.jit`, its own included, makes an interpreted function."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton
        import triton.language as tl
    except ModuleNotFoundError as absent:
        _restore_environment(before)
        raise missing_triton("interpreter", absent) from absent
    # The environment is read where a function is decorated, and Triton decorates its own standard library on import.
    if isinstance(tl.standard.sum, triton.JITFunction):
        _restore_environment(before)
        raise TargetError("Triton was imported before the interpreter target was activated: activate the target first")


def _restore_environment(interpret: str | None) -> None:
    if interpret is None:
        del os.environ["TRITON_INTERPRET"]
    else:
        os.environ["TRITON_INTERPRET"] = interpret
