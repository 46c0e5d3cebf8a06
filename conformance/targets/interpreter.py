"""The interpreter target: AITER's Triton kernels run on the CPU by Triton's interpreter, which takes itself for an AMD GPU."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch

from conformance.targets.hip_driver import COMPUTE_UNITS, HipDriver
from conformance.targets.target import Target, TargetError

DEFAULT_ARCH = "gfx942"


def activate(arch: str = DEFAULT_ARCH) -> Target:
    """Turns this process into an interpreter of `arch`; raises TargetError where Triton is absent or was imported before."""
    if arch not in COMPUTE_UNITS:
        raise TargetError(f"the interpreter knows no arch {arch!r}: choose {' or '.join(COMPUTE_UNITS)}")
    _import_interpreting_triton()
    from triton.runtime import driver, interpreter

    from conformance.targets import interpreter_arithmetic, interpreter_launch

    interpreter_arithmetic.mend(interpreter)
    interpreter_launch.mend(interpreter)
    driver.set_active(HipDriver(arch))
    _answer_for_the_device(int(os.environ.get("CU_NUM") or 0) or COMPUTE_UNITS[arch])
    return Target("interpreter", arch, torch.device("cpu"))


def _import_interpreting_triton() -> Any:
    """Imports Triton so that every `@triton.jit`, its own included, makes an interpreted function."""
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton
        import triton.language as tl
    except ModuleNotFoundError as absent:
        raise TargetError(
            "the interpreter target needs Triton, which is not installed: "
            f'pip install "aiter-conformance[triton]" ({absent})'
        ) from absent
    # The environment is read where a function is decorated, and Triton decorates its own standard library on import.
    if isinstance(tl.standard.sum, triton.JITFunction):
        raise TargetError("Triton was imported before the interpreter target was activated: activate it first, in a fresh process")
    return triton


def _answer_for_the_device(compute_units: int) -> None:
    """Lets torch.cuda name one device and its number of compute units, from which AITER derives grid and split sizes.

    Only the two functions that AITER's kernels ask are replaced; `torch.cuda.is_available()` and all else stay truthful.
    """
    properties = SimpleNamespace(multi_processor_count=compute_units)
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda device=None: properties
