"""The GPU target: the device that torch sees, through HIP or CUDA."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch

from conformance.status import Unsupported
from conformance.targets.target import Target, TargetError, refuse_to_interpret

AMD_ONLY_OPTIONS = frozenset({"waves_per_eu", "matrix_instr_nonkdim", "kpack", "schedule_hint", "allow_flush_denorm"})
"""Launch options that Triton's HIP backend alone knows; its CUDA backend refuses them as unknown arguments."""


AMD_ALONE = {
    "N >= 1 and K >= ": "NVIDIA has no tl.dot of fewer than 16 terms, AMD has: run it elsewhere",
    "type fp8e4b8 not supported in this architecture": "NVIDIA has no e4m3fnuz, AMD has: run it elsewhere",
}
"""What Triton's compiler says, in part, of that which AMD's GPUs have and NVIDIA's have not, and what we say of it."""


def find() -> Target:
    """The GPU of this process; TargetError without one. Under pytest-xdist worker N takes GPU N modulo their number."""
    refuse_to_interpret("target gpu is to run")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        built = "for ROCm" if torch.version.hip else "for CUDA" if torch.version.cuda else "without GPU support"
        raise TargetError(f"no GPU is visible to torch: torch {torch.__version__} is built {built} and finds no device")
    device = torch.device("cuda", _worker_number() % count)
    properties: Any = torch.cuda.get_device_properties(device)
    amd = properties.gcnArchName.split(":")[0] if torch.version.hip else None
    return Target("gpu", amd or f"sm_{properties.major}{properties.minor}", device)


def activate() -> Target:
    """Makes the GPU that `find` finds this process's own."""
    target = find()
    torch.cuda.set_device(target.device)
    if not torch.version.hip:
        _launch_amd_kernels_on_cuda()
    return target


def _worker_number() -> int:
    """N of the pytest-xdist worker `gwN` that this process is; 0 without xdist."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return int(worker[2:]) if worker.startswith("gw") and worker[2:].isdigit() else 0


def _launch_amd_kernels_on_cuda() -> None:
    """Makes every Triton launch on CUDA ignore AMD's tuning options, which change speed and never the result.

    `JITFunction.run` is the one door: a direct launch, `Autotuner` (with its configs' options) and `Heuristics` go
    through it. What AMD's compiler takes and NVIDIA's does not is Unsupported here: it says nothing of the kernel.
    """
    try:
        from triton.compiler.errors import CompilationError
        from triton.runtime.jit import JITFunction
    except ModuleNotFoundError:
        return
    launch = JITFunction.run

    @functools.wraps(launch)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        # A kernel may declare a parameter of that name; then it is an argument, not an option.
        foreign = AMD_ONLY_OPTIONS.difference(self.arg_names)
        try:
            return launch(self, *args, **{name: value for name, value in options.items() if name not in foreign})
        except CompilationError as error:
            said = f"{error} {error.__cause__}"
            for part, sentence in AMD_ALONE.items():
                if part in said:
                    raise Unsupported(sentence) from error
            raise

    JITFunction.run = run
