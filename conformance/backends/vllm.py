"""vLLM's own ROCm backend, as it is installed, on AITER's kernels: see `conformance.vllm_backend`."""

from typing import Any

import torch

from conformance import guards
from conformance.aiter_source import AiterSource, required
from conformance.backends import Answer
from conformance.case import Case
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.targets import Target
from conformance.vllm_backend import caches, claims, kernels, loading, step

TARGETS = ("interpreter", "gpu")
NEEDS_AITER = True

version = loading.version
"""Which vLLM is under test. Raises BackendNotReady."""

_vllm: list[Any] = []
"""vLLM's module of the backend, once there is one."""


def prepare(source: AiterSource | None, target: Target) -> None:
    """Import AITER's kernels, then vLLM. Raises AiterNotFound, AiterNotLoadable or BackendNotReady."""
    kernels.provide(required(source), target)
    _vllm[:] = [loading.load(target)]
    kernels.merge_in_triton()


def attend(case: Case, inputs: Inputs) -> Answer:
    """One step of one layer: vLLM's builder makes metadata of the batch, and its `forward` takes it."""
    (vllm,) = _vllm
    claims.require(vllm, case)
    kv_cache = caches.joined(case, inputs, vllm.AiterFlashAttentionBackend)
    kernels.ran()  # forgets what a call that failed left behind
    with torch.inference_mode():
        layer = step.layer(vllm, case, inputs)
        metadata = step.metadata(vllm, case, inputs, layer)
        output = guards.unwritten("vLLM", inputs.q)
        layer.impl.forward(layer, inputs.q, inputs.key, inputs.value, kv_cache, metadata, output.rows)
    path = _path(metadata, kernels.ran())
    return Answer(output.rows, path=path, profile=rounding(path, case.dtype), guarded=(output,))


def _path(metadata: Any, ran: list[str]) -> str:
    """Which parts the batch had, by vLLM's own count, and which kernels ran: `unified+extend.mha+prefill.mha`."""
    varlen = [name for name in ran if name in ("ck", "mha")]
    parts = [name for name in ran if name not in varlen]
    if getattr(getattr(metadata, "decode_metadata", None), "swa_block_table", None) is not None:
        parts = [name.replace("paged", "paged.trimmed") for name in parts]  # the pages in reach of the window alone
    if metadata.num_extends:
        windowed = metadata.extend_metadata.chunk_context_metadata.swa_metadata is not None
        parts += [f"extend.window.{name}" if windowed else f"extend.{name}" for name in varlen]
    if metadata.num_prefills:
        parts += [f"prefill.{name}" for name in varlen]
    return "+".join(parts)


def rounding(path: str, dtype: str) -> RoundingProfile:
    """What a step rounds: kvcache rounds q * scale * log2(e) to q's dtype, and an extend all that it merges."""
    merged = dtype if any(part.startswith("extend.") and "window" not in part for part in path.split("+")) else None
    scaled_q = dtype if "kvcache" in path.split("+") else None
    return RoundingProfile(out=dtype, p=dtype, scaled_q=scaled_q, parts=merged, merged=merged)
