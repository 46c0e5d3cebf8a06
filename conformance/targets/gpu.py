"""The GPU target: the device that torch sees, through HIP or CUDA."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch

from conformance.targets.target import Target, TargetError

AMD_ONLY_OPTIONS = frozenset({"waves_per_eu", "matrix_instr_nonkdim", "kpack"})
"""Launch options that Triton's HIP backend alone knows; its CUDA backend refuses them as unknown arguments."""


def activate() -> Target:
    """The GPU of this process: under pytest-xdist worker N takes GPU N modulo their number. Raises TargetError if there is none."""
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or count == 0:
        built = "ROCm" if torch.version.hip else "CUDA" if torch.version.cuda else "no GPU support"
        raise TargetError(f"no GPU is visible to torch: torch {torch.__version__} is built with {built} and counts {count} devices")
    torch.cuda.set_device(_worker_number() % count)
    device = torch.device("cuda", torch.cuda.current_device())
    properties: Any = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return Target("gpu", properties.gcnArchName.split(":")[0], device)
    _drop_amd_only_options()
    return Target("gpu", f"sm_{properties.major}{properties.minor}", device)


def _worker_number() -> int:
    """N of the pytest-xdist worker `gwN` that this process is; 0 without xdist."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return int(worker[2:]) if worker.startswith("gw") and worker[2:].isdigit() else 0


def _drop_amd_only_options() -> None:
    """Makes every Triton launch on CUDA ignore AMD's tuning options, which change speed and never the result.

    `JITFunction.run` is the one door: a direct launch, `Autotuner` (with its configs' options) and `Heuristics` all go through it.
    """
    try:
        from triton.runtime.jit import JITFunction
    except ModuleNotFoundError:
        return
    launch = JITFunction.run

    @functools.wraps(launch)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        # A kernel may declare a parameter of that name; then it is an argument, not an option.
        foreign = AMD_ONLY_OPTIONS.difference(self.arg_names)
        return launch(self, *args, **{name: value for name, value in options.items() if name not in foreign})

    JITFunction.run = run
