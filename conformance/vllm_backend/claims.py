"""What vLLM says of its backend that it does not serve: a case of that is declined, and nothing else is.

vLLM's own word is taken: head sizes, page sizes, dtypes, sinks, non-causal attention. What it takes and then drops or
computes otherwise is not declined but judged.
"""

from __future__ import annotations

from typing import Any

import torch

from conformance.case import Case
from conformance.inputs import TORCH_DTYPE
from conformance.status import Unsupported
from conformance.vllm_backend.calling import accepts


def require(vllm: Any, case: Case) -> None:
    """Raises Unsupported if vLLM would not run the case. `vllm` is its module of the backend."""
    backend, impl = vllm.AiterFlashAttentionBackend, vllm.AiterFlashAttentionImpl
    sizes = backend.get_supported_kernel_block_sizes()
    if not any(_is_size(case.page_size, size) for size in sizes):
        raise Unsupported(f"vLLM gives its kernels pages of {_either(sizes)} keys, not {case.page_size}")
    if (heads := backend.get_supported_head_sizes()) and case.head_dim not in heads:
        raise Unsupported(f"vLLM uses this backend for head dimensions {_either(heads)}, not {case.head_dim}")
    if TORCH_DTYPE[case.dtype] not in backend.supported_dtypes:
        raise Unsupported(f"vLLM does not use this backend in {case.dtype}")
    if case.sinks and not (backend.supports_sink() and accepts(impl, "sinks")):
        raise Unsupported("this vLLM says that it has no attention sinks")
    if not case.causal and not (accepts(vllm.AiterFlashAttentionMetadata, "causal") and backend.supports_non_causal()):
        raise Unsupported("this vLLM has no `causal` in its metadata: all that it serves is causal")
    _require_dtypes(vllm, case)


def sliding_window(case: Case) -> int | None:
    """The window as vLLM has it: a number of keys, the query's own included, of which the last is the query's.

    Raises Unsupported for a window that is no such number.
    """
    left, right = case.window
    if case.causal:  # sees nothing to its right, whatever the window says
        return None if left < 0 else left + 1
    if (left < 0) == (right < 0) and right <= 0:
        return None if left < 0 else left + 1
    raise Unsupported(f"a window of vLLM ends with the query's own key: it is a number of keys, not {case.window}")


def cache_dtype(case: Case) -> str:
    """The dtype of the cache, by vLLM's name."""
    return {"": "auto", "e5m2": "fp8_e5m2"}.get(case.cache_dtype, "fp8")


def _require_dtypes(vllm: Any, case: Case) -> None:
    if case.q_dtype:
        raise Unsupported("vLLM hands this backend queries in 16 bits, and no descale of them")
    if case.per_head_descales:
        raise Unsupported("vLLM has one descale for the keys of a layer and one for its values, not one a head")
    if case.per_sequence_descales:
        raise Unsupported("vLLM has one descale for the keys of a layer and one for its values, not one a sequence")
    own = vllm.current_platform.fp8_dtype()
    if case.cache_dtype.startswith("e4m3") and TORCH_DTYPE[case.cache_dtype] is not own:
        raise Unsupported(f"a float8 cache of vLLM is {_name(own)} here, not {case.cache_dtype}")
    if (name := cache_dtype(case)) not in vllm.AiterFlashAttentionBackend.supported_kv_cache_dtypes:
        raise Unsupported(f"vLLM does not use this backend with a cache in {name}")


def _is_size(page: int, size: Any) -> bool:
    return page == size if isinstance(size, int) else page % size.base == 0  # vLLM's MultipleOf


def _either(sizes: Any) -> str:
    return " or ".join(str(size) if isinstance(size, int) else f"multiples of {size.base}" for size in sizes)


def _name(dtype: torch.dtype) -> str:
    return next((name for name, known in TORCH_DTYPE.items() if known is dtype), str(dtype))
