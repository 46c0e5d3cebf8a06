"""AITER's kernels as the dispatch knows them: their real parameters, in order, and what they compute in float64.

Each answers from its arguments alone, by its contract; what the real one leaves undefined is NaN here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

TRITON = ("unified", "kvcache", "mha")
ROCM = (*TRITON, "ck", "paged")


def rows_of_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: tuple[int, int], scale: float, softcap: float = 0.0,
    slopes: Tensor | None = None, sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Queries [m, Hq, D] over keys [n, Hkv, D], the plain way: out [m, Hq, D] and lse [m, Hq], float64."""
    (m, q_heads, _), n = q.shape, len(k)
    out, lse = torch.zeros(q.shape, dtype=torch.float64), torch.full((m, q_heads), -math.inf, dtype=torch.float64)
    for i in range(m):
        stand = n - m + i
        first = max(0, stand - window[0]) if window[0] >= 0 else 0
        end = min(n, stand + 1) if causal else n
        end = max(0, min(end, stand + window[1] + 1) if window[1] >= 0 else end)
        for head in range(q_heads):
            kv = head // (q_heads // k.shape[1])
            scores = (k[first:end, kv].double() @ q[i, head].double()) * scale
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            if slopes is not None:
                scores = scores - slopes[head].double() * (torch.arange(first, first + len(scores)) - stand).abs()
            every = scores if sinks is None else torch.cat([scores, sinks[head : head + 1].double()])
            if len(every):
                lse[i, head] = every.logsumexp(0)
                out[i, head] = (scores - lse[i, head]).exp() @ v[first:end, kv].double()
    return out, lse


def unified(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int, seqused_k: Tensor,
    max_seqlen_k: int, softmax_scale: float, causal: bool, window_size: tuple[int, int], block_table: Tensor,
    softcap: float, q_descale: Tensor | None, k_descale: Tensor | None, v_descale: Tensor | None,
    alibi_slopes: Tensor | None = None, sinks: Tensor | None = None,
) -> None:  # fmt: skip
    """Causal only, packed queries, blind to the right side of a window, and to all descales but the first."""
    assert causal, "Only causal attention is supported"
    starts = cu_seqlens_q.tolist()
    assert max(b - a for a, b in pairwise(starts)) <= max_seqlen_q
    assert int(seqused_k.max()) <= max_seqlen_k
    for b, (start, end) in enumerate(pairwise(starts)):
        keys, values = (
            pages_of(cache, block_table[b], int(seqused_k[b])).double() * (1.0 if descale is None else descale[0, 0])
            for cache, descale in ((k, k_descale), (v, v_descale))
        )
        queries = q[start:end].double() * (1.0 if q_descale is None else q_descale[0, 0])
        out[start:end] = rows_of_attention(
            queries, keys, values, True, (window_size[0], -1), softmax_scale, softcap, alibi_slopes, sinks
        )[0].to(out.dtype)


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: None = None, v: None = None, qv: None = None,
    cache_seqlens: Tensor | None = None, softmax_scale: float | None = None, causal: bool = True,
    window_size: tuple[int, int] = (-1, -1), attention_chunk: int = 0, softcap: float = 0.0, num_splits: int = 0,
    pack_gqa: None = None, sm_margin: int = 0, q_descale: Tensor | None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, max_seqlen_q: int | None = None, return_softmax_lse: bool = False,
    page_table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Queries [B, m, Hq, D], the same number for each sequence: out of that shape, and lse [B, Hq, m]."""
    assert return_softmax_lse
    assert page_table is not None
    assert cache_seqlens is not None
    assert softmax_scale is not None
    if softcap != 0.0:
        raise NotImplementedError("softcap not implemented in KV cache path")
    if q.itemsize != k_cache.itemsize and k_cache.itemsize == 1:
        raise ValueError("Mixed FP8 and non-FP8 tensors provided; either all or none must be FP8.")
    stored = q.dtype if q.itemsize > 1 else torch.float32
    out, lse = torch.empty(q.shape, dtype=stored), torch.empty(q.shape[0], q.shape[2], q.shape[1])
    group = q.shape[2] // k_cache.shape[2]
    for b in range(len(q)):
        keys, values = (
            pages_of(cache, page_table[b], int(cache_seqlens[b])).double()
            * (1.0 if descale is None else descale[b].double()[:, None])
            for cache, descale in ((k_cache, k_descale), (v_cache, v_descale))
        )
        times = 1.0 if q_descale is None else q_descale[b].double().repeat_interleave(group)[:, None]
        rows, sums = rows_of_attention(q[b].double() * times, keys, values, causal, window_size, softmax_scale)
        out[b], lse[b] = rows.to(stored), sums.T
    return out, lse


def mha_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), bias: None = None, alibi_slopes: Tensor | None = None,
    deterministic: bool = False, return_lse: bool = False, return_attn_probs: bool = False,
    block_table: None = None, out: None = None, sink: Tensor | None = None, config: None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """In Triton: lse [T, Hq], no right side of a window, and a left one of 0 is none; slopes [S, Hq]."""
    assert return_lse
    if window_size[1] != -1:
        raise ValueError("window_size_right is not supported yet in the Triton Backend")
    assert alibi_slopes is None or alibi_slopes.stride(1) == 1
    slopes = None if alibi_slopes is None else alibi_slopes[0]
    left = window_size[0] if window_size[0] > 0 else -1
    return _varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, (left, -1),
                   0.0, slopes, sink)  # fmt: skip


def ck_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    min_seqlen_q: int = 0, dropout_p: float = 0.0, softmax_scale: float | None = None, logits_soft_cap: float = 0.0,
    causal: bool = False, window_size: tuple[int, ...] = (-1, -1, 0), bias: None = None,
    alibi_slopes: Tensor | None = None, deterministic: bool = False, return_lse: bool = False,
    return_attn_probs: bool = False, how_v3_bf16_cvt: int = 1, block_table: None = None, out: None = None,
    cu_seqlens_q_padded: None = None, cu_seqlens_k_padded: None = None, sink_ptr: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """CK: lse [Hq, T], both sides of a window, softcap."""
    assert return_lse
    assert len(window_size) == 2
    done, lse = _varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal,
                        (window_size[0], window_size[1]), logits_soft_cap, alibi_slopes, sink_ptr)  # fmt: skip
    return done, lse.T


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    scale: float | None, causal: bool, window: tuple[int, int], softcap: float, slopes: Tensor | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A sequence without keys leaves NaN and an lse of 0."""
    assert scale is not None
    assert q.dtype == k.dtype == v.dtype
    out, lse = torch.full(q.shape, math.nan, dtype=q.dtype), torch.zeros(q.shape[:2])
    for (a, b), (c, d) in zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True):
        assert b - a <= max_seqlen_q
        assert d - c <= max_seqlen_k
        if d > c:
            rows, sums = rows_of_attention(q[a:b], k[c:d], v[c:d], causal, window, scale, softcap, slopes, sinks)
            out[a:b], lse[a:b] = rows.to(q.dtype), sums
    return out, lse


def paged_attention_v1(
    out: Tensor, workspace_buffer: Tensor, query: Tensor, key_cache: Tensor, value_cache: Tensor, scale: float,
    block_tables: Tensor, cu_query_lens: Tensor | None, context_lens: Tensor, max_context_len: int,
    alibi_slopes: Tensor | None, kv_cache_dtype: str, kv_cache_layout: str, logits_soft_cap: float, k_scale: Tensor,
    v_scale: Tensor, fp8_out_scale: Tensor | None = None, partition_size: int = 256, mtp: int = 1,
    sliding_window: int = 0,
) -> Tensor:  # fmt: skip
    """One query a sequence, in HIP: what it takes for granted is asserted."""
    assert cu_query_lens is not None
    sequences, heads, dim = query.shape
    partitions = -(-max_context_len // partition_size)
    assert workspace_buffer.nbytes >= sequences * heads * partitions * (dim * query.itemsize + 2 * 4)
    assert cu_query_lens.tolist() == list(range(sequences + 1))
    assert block_tables.shape[0] == len(context_lens) == sequences
    assert block_tables.stride() == (block_tables.shape[1], 1)
    assert block_tables.shape[1] * key_cache.shape[1] >= max_context_len >= int(context_lens.max())
    assert {block_tables.dtype, cu_query_lens.dtype, context_lens.dtype} == {torch.int32}
    assert {k_scale.dtype, v_scale.dtype} == {torch.float32}
    assert key_cache.stride() == value_cache.stride()
    assert key_cache.stride(3) == 1
    assert out.is_contiguous()
    assert query.stride()[1:] == (dim, 1)
    assert (kv_cache_dtype, kv_cache_layout, mtp) == ("auto" if key_cache.itemsize > 1 else "fp8", "NHD", 1)
    for b in range(sequences):
        n = int(context_lens[b])
        keys = pages_of(key_cache, block_tables[b], n).double() * k_scale[0]
        values = pages_of(value_cache, block_tables[b], n).double() * v_scale[0]
        window = (sliding_window - 1, -1)
        out[b] = rows_of_attention(
            query[b : b + 1], keys, values, True, window, scale, logits_soft_cap, alibi_slopes
        )[0].to(out.dtype)  # fmt: skip
    return out


def pages_of(cache: Tensor, table: Tensor, n: int) -> Tensor:
    pages = -(-n // cache.shape[1])
    return cache[table[:pages].long()].flatten(0, 1)[:n]


KERNELS: dict[str, Callable[..., Any]] = {
    "unified": unified,
    "kvcache": flash_attn_with_kvcache,
    "mha": mha_varlen,
    "ck": ck_varlen,
    "paged": paged_attention_v1,
}


@dataclass
class Kernels:
    """What `forward` loads from; remembers the calls, their arguments by the names of the parameters."""

    offers: tuple[str, ...] = TRITON
    called: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def load(self, name: str) -> Callable[..., Any] | None:
        if name not in self.offers:
            return None
        kernel = KERNELS[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            self.called.append((name, signature(kernel).bind(*args, **kwargs).arguments))
            return kernel(*args, **kwargs)

        return call
