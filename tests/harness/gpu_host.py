"""Makes this machine a host of GPUs, `GPUS_OF_HOST` of them, in every process that imports this.

The CPU computes what each GPU would. Each process says in the file `GPU_LOG` what its driver reads when it is first
asked, and which worker it is, or belongs to; "" for the process that controls them.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from conformance import targets
from conformance.gpus import BELOW_HIP, variables, visible
from conformance.targets import Target

LISTS = (BELOW_HIP, *variables(hip=True))
asked: list[dict[str, Any]] = []


def ask() -> int:
    """What the driver reads when it is first asked, and never again; the number of GPUs that it then shows."""
    if not asked:
        who = os.environ.get("PYTEST_XDIST_WORKER", "")
        asked.append({"who": who, "read": {name: os.environ[name] for name in LISTS if name in os.environ}})
        with Path(os.environ["GPU_LOG"]).open("a") as log:
            log.write(json.dumps(asked[0]) + "\n")
    return len(visible(asked[0]["read"], hip=False, present=int(os.environ["GPUS_OF_HOST"])) or [])


def activate() -> Target:
    assert ask() > 0
    return Target("gpu", "sm_90", torch.device("cpu"))


def activate_cpu() -> Target:
    ask()
    return Target("cpu", "cpu", torch.device("cpu"))


def properties(device: object = None) -> SimpleNamespace:
    return SimpleNamespace(name="CPU that plays a GPU", multi_processor_count=132, total_memory=2**36, major=9, minor=0)


torch.cuda.device_count = ask
torch.cuda.is_available = lambda: ask() > 0
torch.cuda.synchronize = lambda device=None: None
torch.cuda.get_device_properties = properties  # type: ignore[assignment]
torch.cuda.mem_get_info = lambda device=None: (2**35, 2**36)
targets.SPECS |= {"gpu": activate, "cpu": activate_cpu}
targets.gpu.find = activate
