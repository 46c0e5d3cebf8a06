"""The interpreter target: Triton's interpreter runs AITER's kernels on the CPU, and takes itself for an AMD GPU."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import torch

from conformance.targets.hip_driver import COMPUTE_UNITS, WAVEFRONT, HipDriver
from conformance.targets.target import Target, TargetError

DEFAULT_ARCH = "gfx942"


def activate(arch: str = DEFAULT_ARCH) -> Target:
    """Turns this process into an interpreter of `arch`, for good.

    Raises TargetError where Triton is absent, was imported to compile, or has an interpreter that cannot be mended.
    """
    compute_units = _compute_units(arch)
    _import_interpreting_triton()
    from triton.runtime import driver, interpreter

    from conformance.targets import interpreter_arithmetic, interpreter_launch

    interpreter_launch.mend(interpreter)
    interpreter_arithmetic.mend(interpreter)
    driver.set_active(cast("Any", HipDriver(arch)))
    _answer_for_the_device(arch, compute_units)

    from conformance.targets import interpreter_probe

    interpreter_probe.check()
    return Target("interpreter", arch, torch.device("cpu"))


def _compute_units(arch: str) -> int:
    """The compute units of `arch`, or the user's own: AITER reads CU_NUM first, and takes 0 for unset."""
    chosen = os.environ.get("CU_NUM") or "0"
    if not chosen.isdecimal():
        raise TargetError(f"CU_NUM is {chosen!r}, which is no number of compute units")
    return int(chosen) or COMPUTE_UNITS[arch]


def _import_interpreting_triton() -> None:
    """Imports Triton so that every `@triton.jit`, its own included, makes an interpreted function."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton
        import triton.language as tl
    except ModuleNotFoundError as absent:
        _restore_environment(before)
        remedy = 'pip install "aiter-conformance[triton]"'
        raise TargetError(
            f"the interpreter target needs Triton, which is not installed ({absent}): {remedy}"
        ) from absent
    # The environment is read where a function is decorated, and Triton decorates its own standard library on import.
    if isinstance(tl.standard.sum, triton.JITFunction):
        _restore_environment(before)
        raise TargetError("Triton was imported before the interpreter target was activated: activate the target first")


def _restore_environment(interpret: str | None) -> None:
    if interpret is None:
        del os.environ["TRITON_INTERPRET"]
    else:
        os.environ["TRITON_INTERPRET"] = interpret


def _answer_for_the_device(arch: str, compute_units: int) -> None:
    """Lets torch.cuda name one device and its compute units, from which AITER derives grid and split sizes.

    Only the two functions that AITER's kernels call are replaced: `torch.cuda.is_available()` and all else stay true.
    """
    properties = SimpleNamespace(
        name=f"{arch} (interpreted)", gcnArchName=arch, multi_processor_count=compute_units, warp_size=WAVEFRONT
    )

    def get_device_properties(device: object = None) -> SimpleNamespace:
        del device  # there is one
        return properties

    os.environ["CU_NUM"] = str(compute_units)
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = get_device_properties
