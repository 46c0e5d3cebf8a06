"""Lets vLLM take a machine without an AMD GPU for one that has ROCm."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from conformance.backends import BackendNotReady
from conformance.targets import Target


@contextmanager
def as_rocm(target: Target) -> Iterator[None]:
    """While this lasts vLLM is imported as on ROCm: `rocm_aiter_fa` defines its Triton kernels there alone.

    On ROCm nothing is done. Elsewhere vLLM's own `RocmPlatform` is made the current one, before anything asks for it.
    It names the architecture that `torch.cuda.get_device_properties` does: the interpreter's, or an NVIDIA GPU's name.
    Raises BackendNotReady where vLLM has made up its mind already.
    """
    if target.kind == "gpu" and torch.version.hip:
        yield
        return
    with _triton_without_a_driver():
        platforms: Any = importlib.import_module("vllm.platforms")
        rocm: Any = importlib.import_module("vllm.platforms.rocm").RocmPlatform
        # What can be pinned is for a real driver to say; all else is vLLM's own.
        own = {"is_pin_memory_available": classmethod(lambda _: torch.cuda.is_available())}
        platforms._current_platform = type("RocmPlatform", (rocm,), own)()
        if not importlib.import_module("vllm.triton_utils").HAS_TRITON:
            raise BackendNotReady("vLLM does without Triton in this process, so that its kernels cannot be had")
        yield


@contextmanager
def _triton_without_a_driver() -> Iterator[None]:
    """Triton as it is: vLLM turns it off where no driver is active, unless the list of GPUs is empty, not unset."""
    # vLLM 0.19 and 0.20 ask for CUDA's list, whatever the platform.
    names = () if torch.cuda.is_available() else ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    chosen = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, ""))
    try:
        yield
    finally:
        for name, value in chosen.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class PageableMemory(TorchFunctionMode):
    """Memory of the host as it is, where code asks for pinned memory that only a driver can give."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if not torch.cuda.is_available():
            options = {name: value for name, value in options.items() if name != "pin_memory"}
        return func(*args, **options)
