"""The kernels that vLLM calls, each noting that it ran; where no ROCm build offers one, its relative in Triton."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from conformance.aiter_source import AiterNotLoadable, AiterSource, attention_modules, load_kernel
from conformance.status import Unsupported
from conformance.targets import Target

DECODES = {
    "kvcache": ("aiter.ops.triton.attention.mha_v3", "flash_attn_with_kvcache"),
    "unified": ("aiter.ops.triton.unified_attention", "unified_attention"),
}
"""What vLLM imports, by the names that it uses; where AITER keeps it may be elsewhere."""

MHA = attention_modules("mha"), "flash_attn_varlen_func"
UNIFIED = attention_modules("unified_attention"), "unified_attention"

_ran: list[str] = []


def ran() -> list[str]:
    """Which kernels ran since this was last asked, in the order of their first call."""
    names = list(dict.fromkeys(_ran))
    _ran.clear()
    return names


def provide(source: AiterSource, target: Target) -> None:
    """Puts each kernel where vLLM will look for it. Raises AiterNotLoadable."""
    unified = load_kernel(source, target, *UNIFIED)  # which puts `aiter` where vLLM will find it
    for name, (module, function) in DECODES.items():
        _note_calls(_module(module, source), function, name)
    aiter: Any = sys.modules["aiter"]
    if hasattr(aiter, "flash_attn_varlen_func"):
        _note_calls(aiter, "flash_attn_varlen_func", "ck")
    else:
        aiter.flash_attn_varlen_func = _noting("mha", varlen_in_triton(load_kernel(source, target, *MHA)))
    operators: Any = torch.ops.aiter
    if hasattr(operators, "paged_attention_v1"):
        _note_calls(operators, "paged_attention_v1", "paged")
    else:
        operators.paged_attention_v1 = _noting("paged.unified", paged_in_triton(unified))


def merge_in_triton() -> None:
    """Where vLLM has no operators of its own, its merge of two parts of an attention is its own in Triton."""
    if not hasattr(torch.ops._C, "merge_attn_states"):
        custom: Any = importlib.import_module("vllm._custom_ops")
        custom.merge_attn_states = importlib.import_module(
            "vllm.v1.attention.ops.triton_merge_attn_states"
        ).merge_attn_states


def varlen_in_triton(mha: Callable[..., Any]) -> Callable[..., Any]:
    """`aiter.flash_attn_varlen_func` as vLLM calls it, computed by `mha`, AITER's Triton function of that name.

    CK gives the lse as [Hq, T] where the relative gives [T, Hq], and writes to `out`, of which the relative takes no
    notice; `min_seqlen_q` is a hint. The relative has no right side of a window, but a window that ends with the
    query's own key is causal. It takes a window of that key alone for none at all, which is Unsupported.
    """

    def flash_attn_varlen_func(
        *,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float,
        causal: bool,
        window_size: tuple[int, int],
        min_seqlen_q: int = 0,
        dropout_p: float = 0.0,
        alibi_slopes: Tensor | None = None,
        return_lse: bool = False,
        out: Tensor | None = None,
        sink_ptr: Tensor | None = None,
    ) -> Any:
        del min_seqlen_q
        left, right = window_size
        if left == 0 or right > 0:
            raise Unsupported(
                f"aiter's Triton flash_attn_varlen_func has no window {window_size}, and its CK one needs a ROCm build"
            )
        sequences = cu_seqlens_q.shape[0] - 1
        attended, lse = mha(
            q,
            k,
            v,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            max_seqlen_q=max_seqlen_q,
            max_seqlen_k=max_seqlen_k,
            dropout_p=dropout_p,
            softmax_scale=softmax_scale,
            causal=causal or right == 0,
            window_size=(left, -1),
            alibi_slopes=None if alibi_slopes is None else alibi_slopes.expand(sequences, -1),
            return_lse=True,
            sink=sink_ptr,
        )
        if out is not None:
            out.copy_(attended)
        written = attended if out is None else out
        return (written, lse.transpose(0, 1).contiguous()) if return_lse else written

    return flash_attn_varlen_func


def paged_in_triton(unified: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.ops.aiter.paged_attention_v1` as vLLM calls it, one query a sequence, computed by `unified_attention`."""

    def paged_attention_v1(
        out: Tensor,
        workspace: Tensor,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        scale: float,
        block_table: Tensor,
        query_starts: Tensor,
        seq_lens: Tensor,
        max_seq_len: int,
        alibi_slopes: Tensor | None,
        cache_dtype: str,
        layout: str,
        softcap: float,
        k_scale: Tensor,
        v_scale: Tensor,
        out_scale: Tensor | None,
        partition: int,
        queries: int,
        window: int = 0,
    ) -> None:
        del workspace, query_starts, cache_dtype, partition  # row i is the query of sequence i
        if layout != "NHD" or out_scale is not None or queries != 1:
            raise Unsupported("aiter's unified_attention stands in for paged_attention_v1 in its plain form alone")
        descale = (len(q), k_cache.shape[2])
        small = k_cache.itemsize == 1
        unified(
            q=q,
            k=k_cache,
            v=v_cache,
            out=out,
            cu_seqlens_q=torch.arange(len(q) + 1, dtype=torch.int32, device=q.device),
            max_seqlen_q=1,
            seqused_k=seq_lens,
            max_seqlen_k=max_seq_len,
            softmax_scale=scale,
            causal=True,
            alibi_slopes=alibi_slopes,
            window_size=(window - 1, 0) if window > 0 else (-1, -1),
            block_table=block_table,
            softcap=softcap,
            q_descale=None,
            k_descale=k_scale.expand(descale) if small else None,
            v_descale=v_scale.expand(descale) if small else None,
        )

    return paged_attention_v1


def _module(name: str, source: AiterSource) -> Any:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise AiterNotLoadable(f"AITER {source.described} has no {name}, which vLLM imports: {error}") from error
    return sys.modules[name]  # under an old name AITER hands out one module first, and another from then on


def _note_calls(module: Any, function: str, name: str) -> None:
    kernel = getattr(module, function)
    if not hasattr(kernel, "noted_as"):  # a second name of the same module
        setattr(module, function, _noting(name, kernel))


def _noting(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(kernel, assigned=("__module__", "__name__", "__doc__"), updated=())
    def noting(*args: Any, **options: Any) -> Any:
        _ran.append(name)
        return kernel(*args, **options)

    noting.noted_as = name  # type: ignore[attr-defined]
    return noting
