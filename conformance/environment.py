"""What a result was obtained with."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from conformance import __version__
from conformance.targets import Target

PACKAGES = ("torch", "triton", "pytorch-triton-rocm", "numpy", "pytest", "pytest-xdist")


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
        if target.kind == "gpu":
            found |= _gpu(target)
    return found


def _gpu(target: Target) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(target.device)
    return {
        "device": properties.name,
        "compute units": str(properties.multi_processor_count),
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "runtime": f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}",
    }


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
