"""The KV cache as one tensor, in the shape that this vLLM takes apart: the same memory where the layout is its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.status import Unsupported


def layout(backend: Any) -> str:
    """Which of `conformance.layouts` a vLLM's backend class keeps its cache in.

    Up to 0.22 it is [2, blocks, page, heads, D], then [blocks, 2, page, heads, D]; vLLMs that no longer say a shape
    keep K and V side by side: [blocks, heads, page, 2 D].
    """
    if not hasattr(backend, "get_kv_cache_shape"):
        return "packed"
    shape = tuple(backend.get_kv_cache_shape(7, 16, 3, 64))
    known = {(2, 7, 16, 3, 64): "contiguous", (7, 2, 16, 3, 64): "interleaved", (7, 3, 16, 128): "packed"}
    if shape not in known:
        raise Unsupported(f"a KV cache of the shape {shape} for 7 blocks, 3 heads and D 64 is not known here")
    return known[shape]


def joined(case: Case, inputs: Inputs, backend: Any) -> Tensor:
    """K and V as vLLM's one tensor, float8 as bytes. Raises Unsupported for a layout that is not vLLM's."""
    own = layout(backend)
    if case.layout != own:
        raise Unsupported(f"this vLLM keeps K and V {own}, not {case.layout}")
    k, v = inputs.k_cache, inputs.v_cache
    blocks, page, heads, head_dim = k.shape
    if own == "packed":
        strides = (k.stride(0), k.stride(2), k.stride(1), 1)
        both = k.as_strided((blocks, heads, page, 2 * head_dim), strides)
    elif own == "interleaved":
        both = k.as_strided((blocks, 2, page, heads, head_dim), (k.stride(0), k.stride(0) // 2, *k.stride()[1:]))
    else:
        both = torch.stack((k.view(torch.uint8), v.view(torch.uint8))).view(k.dtype)  # the one that is copied
    return both.view(torch.uint8) if both.itemsize == 1 else both
