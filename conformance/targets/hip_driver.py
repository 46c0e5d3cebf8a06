"""A stand-in for an AMD GPU, so that Triton, and AITER's host code, take a machine without one for one."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch

from conformance.targets.target import TargetError

WAVEFRONT = 64
"""Threads of a wavefront on every CDNA GPU."""

COMPUTE_UNITS = {"gfx942": 304, "gfx950": 256}
"""Compute units of MI300X and MI350X, by the architecture's name."""


def compute_units(arch: str) -> int:
    """The compute units of `arch`, or the user's own: AITER reads CU_NUM first, and takes 0 for unset."""
    chosen = os.environ.get("CU_NUM") or "0"
    if not chosen.isdecimal():
        raise TargetError(f"CU_NUM is {chosen!r}, which is no number of compute units")
    return int(chosen) or COMPUTE_UNITS[arch]


def stand_in(arch: str, compute_units: int, how: str) -> None:
    """Lets Triton and torch.cuda name one device of `arch`, whose kernels are e.g. `interpreted`, for good.

    Of torch.cuda only the two functions that AITER's kernels call are replaced, from which they derive grid and split
    sizes: `torch.cuda.is_available()` and all else stay true.
    """
    from triton.runtime import driver

    properties = SimpleNamespace(
        name=f"{arch} ({how})", gcnArchName=arch, multi_processor_count=compute_units, warp_size=WAVEFRONT
    )

    def get_device_properties(device: object = None) -> SimpleNamespace:
        del device  # there is one
        return properties

    driver.set_active(cast("Any", HipDriver(arch)))
    os.environ["CU_NUM"] = str(compute_units)
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = get_device_properties


class HipDriver:
    """Answers what kernels ask of a driver at import and at launch: one HIP device of the given arch, number 0.

    Triton checks no type, so that there is no need to derive from its `DriverBase` and import Triton here.
    """

    def __init__(self, arch: str) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        """Triton's `GPUTarget` of this arch."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("hip", self.arch, WAVEFRONT)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, _device: int) -> None:
        """There is one device only, so there is nothing to choose."""

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def get_device_capability(self, _device: int | None = None) -> tuple[int, int]:
        """The (major, minor) pair that torch reports for this arch: (9, 4) for gfx942."""
        return int(self.arch[3:-2]), int(self.arch[-2], 16)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """A benchmarker that runs the kernel once and times nothing: any config is as good as another without a GPU."""

        def run_once(
            kernel_call: Callable[[], object], *, quantiles: list[float] | None = None, **_: object
        ) -> list[float]:
            kernel_call()
            return [0.0] * len(quantiles or [0.5])

        return run_once
