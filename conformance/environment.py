"""What a result was obtained with."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from conformance import __version__, gpus
from conformance.memory import shown
from conformance.targets import Target

PACKAGES = ("torch", "triton", "pytorch-triton-rocm", "numpy", "vllm", "pytest", "pytest-xdist")


def describe(target: Target | None = None) -> dict[str, str]:
    """Versions of everything that a result may depend on, and the device of `target`, as plain text by name."""
    found = {
        "suite": " ".join(filter(None, (__version__, _suite_commit()))),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if target is not None:
        found["target"] = target.name
        if target.fp8:
            found["float8"] = target.fp8
        if target.kind == "gpu":
            found |= _gpu(target)
    return found


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as its list names them. Asks the driver: not for a worker yet to be pinned."""
    return gpus.visible(os.environ, hip=torch.version.hip is not None, present=torch.cuda.device_count()) or []


def of_gpus() -> str:
    """`3: 1, 3, 6 (HIP_VISIBLE_DEVICES=1,3,6)`: how many this process sees, which, and who said so."""
    seen = visible_gpus()
    names = (gpus.BELOW_HIP, *gpus.variables(hip=True))
    said = " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    return str(len(seen)) + (f": {', '.join(seen)}" if seen else "") + (f" ({said})" if said else "")


def _gpu(target: Target) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(target.device)
    return {
        "device": properties.name,
        "arch": target.arch,
        "compute units": str(properties.multi_processor_count),
        "memory": shown(properties.total_memory),
        "runtime": f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}",
        **_driver(hip=torch.version.hip is not None),
    }


DRIVER = {True: Path("/sys/module/amdgpu/version"), False: Path("/proc/driver/nvidia/version")}
"""Where a kernel driver says its version: on ROCm (only one that was installed beside the kernel does), and on CUDA."""


def _driver(*, hip: bool) -> dict[str, str]:
    try:
        version = re.search(r"\b\d+\.\d+(\.\d+)*\b", DRIVER[hip].read_text())
    except OSError:
        return {}
    return {"driver": version[0]} if version else {}


def _suite_commit() -> str:
    """The suite's own commit, where it runs from a checkout; a `+` where that has uncommitted changes."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    git = ("git", "-C", str(root))
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changes.stdout else "")
