"""AITER's other entries as they are called, each computed the plain way in float64: names, shapes and strides matter.

Each does what its original's host code asserts or silently relies on, as an assertion.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.harness.dispatch_kernels import pages_of, rows_of_attention

NO_WINDOW = (-1, -1)


def paged_attention_decode(
    output: Tensor, query: Tensor, key_cache: Tensor, value_cache: Tensor, seq_lens: Tensor, block_tables: Tensor,
    attn_scale: float, max_seq_len: int, compute_type: object, k_scale: Tensor, v_scale: Tensor,
    num_seq_partitions: int = 0, alibi_slopes: Tensor | None = None,
) -> None:  # fmt: skip
    """Caches [blocks, Hkv, page, D], one scale each; K's strides are V's; a query a sequence."""
    assert k_scale.shape == v_scale.shape == (1,)
    assert key_cache.stride() == value_cache.stride()
    assert key_cache.stride(3) == 1
    assert len(query) == len(seq_lens)
    assert int(seq_lens.max()) <= max_seq_len
    assert compute_type
    for b, n in enumerate(seq_lens.tolist()):
        k, v = (
            pages_of(cache.transpose(1, 2), block_tables[b], n).double() * scale
            for cache, scale in ((key_cache, k_scale), (value_cache, v_scale))
        )
        output[b] = rows_of_attention(query[b : b + 1], k, v, True, NO_WINDOW, attn_scale, slopes=alibi_slopes)[0]


def mha_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW, bias: None = None, alibi_slopes: Tensor | None = None,
    deterministic: bool = False, return_lse: bool = False, return_attn_probs: bool = False,
    block_table: Tensor | None = None, out: Tensor | None = None, sink: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Refuses a window's right side, wants slopes for each sequence, and gives the lse as [T, Hq]."""
    assert return_lse
    assert block_table is None
    assert dropout_p == 0
    if window_size[1] != -1:
        raise ValueError("window_size_right is not supported yet in the Triton Backend")
    assert alibi_slopes is None or alibi_slopes.shape == (len(cu_seqlens_q) - 1, q.shape[1])
    slopes = None if alibi_slopes is None else alibi_slopes[0]
    assert softmax_scale is not None
    return varlen(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, window_size, softmax_scale,
        slopes=slopes, sinks=sink,
    )  # fmt: skip


def mha_v3_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    softmax_scale: float | None = None, causal: bool = False, q_descale: None = None, k_descale: None = None,
    v_descale: None = None, window_size: tuple[int, int] = NO_WINDOW, attention_chunk: int = 0, softcap: float = 0.0,
    deterministic: bool = False, sm_margin: int = 0,
) -> Tensor:  # fmt: skip
    """Insists on tensors of a GPU, the one that is current; gives no lse."""
    assert q.is_cuda, "Device mismatch"
    assert q.device.index == torch.cuda.current_device(), "Device mismatch"
    assert k.dtype == v.dtype
    if softcap != 0.0:
        raise NotImplementedError("softcap not implemented in varlen v3 yet")
    assert softmax_scale is not None
    q = q.as_subclass(Tensor)
    return varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, window_size, softmax_scale)[
        0
    ]


def kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: None = None, v: None = None, qv: None = None,
    cache_seqlens: Tensor | None = None, softmax_scale: float | None = None, causal: bool = True,
    window_size: tuple[int, int] = NO_WINDOW, attention_chunk: int = 0, softcap: float = 0.0, num_splits: int = 0,
    pack_gqa: None = None, sm_margin: int = 0, q_descale: None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, max_seqlen_q: None = None, return_softmax_lse: bool = False,
    page_table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Queries [B, m, Hq, D]; gives an lse [B, Hq, m]."""
    assert return_softmax_lse
    assert q.dim() == 4
    assert cache_seqlens is not None
    assert page_table is not None
    if softcap != 0.0:
        raise NotImplementedError("softcap not implemented in KV cache path")
    assert softmax_scale is not None
    out, lse = torch.empty_like(q), q.new_empty(len(q), q.shape[2], q.shape[1])
    for b, n in enumerate(cache_seqlens.tolist()):
        keys, values = (pages_of(cache, page_table[b], n) for cache in (k_cache, v_cache))
        out[b], sums = rows_of_attention(q[b], keys, values, causal, window_size, softmax_scale)
        lse[b] = sums.T
    return out, lse


def chunked_prefill_paged_decode(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, kv_cache_dtype: str, key_cache: Tensor,
    value_cache: Tensor, block_table: Tensor, query_start_loc: Tensor, seq_lens: Tensor, max_query_len: int,
    k_scale: Tensor, v_scale: Tensor, alibi_slopes: Tensor | None = None, sliding_window: int | None = None,
    sm_scale: float | None = None,
) -> None:  # fmt: skip
    """K as [blocks, Hkv, D / x, page, x], V as [blocks, Hkv, D, page]; what is new is taken from `key` and `value`."""
    blocks, heads, d_of_x, page, x = key_cache.shape
    assert value_cache.shape == (blocks, heads, d_of_x * x, page)
    assert query.shape[2] == d_of_x * x
    assert k_scale.shape == v_scale.shape == (1,)
    assert (kv_cache_dtype == "auto") == (key_cache.itemsize > 1)
    k_cache = key_cache.permute(0, 3, 1, 2, 4).flatten(3).double() * k_scale
    v_cache = value_cache.permute(0, 3, 1, 2).double() * v_scale
    left = -1 if not sliding_window else sliding_window - 1
    assert sm_scale is not None
    for b, (start, end) in enumerate(pairwise(query_start_loc.tolist())):
        n, m = int(seq_lens[b]), end - start
        assert m <= max_query_len
        assert n >= m
        k, v = (pages_of(cache, block_table[b], n) for cache in (k_cache, v_cache))
        if m > 1:
            k[n - m :], v[n - m :] = key[start:end].double(), value[start:end].double()
        rows = rows_of_attention(query[start:end], k, v, True, (left, -1), sm_scale, slopes=alibi_slopes)
        output[start:end] = rows[0]


def extend_attention_fwd(
    q_extend: Tensor, k_extend: Tensor, v_extend: Tensor, o_extend: Tensor, k_buffer: Tensor, v_buffer: Tensor,
    qo_indptr: Tensor, kv_indptr: Tensor, kv_indices: Tensor, custom_mask: None, is_causal: bool, mask_indptr: None,
    max_len_extend: int, sm_scale: float | None = None, logit_cap: float = 0.0, skip_prefix_custom_mask: bool = True,
) -> None:  # fmt: skip
    """Rows of `k_buffer` [R, Hkv, D] that `kv_indices` names, then the new ones."""
    assert custom_mask is None
    assert mask_indptr is None
    assert sm_scale is not None
    for b, (start, end) in enumerate(pairwise(qo_indptr.tolist())):
        assert end - start <= max_len_extend
        rows = kv_indices[kv_indptr[b] : kv_indptr[b + 1]]
        k, v = (
            torch.cat([buffer[rows], new[start:end]]).double()
            for buffer, new in ((k_buffer, k_extend), (v_buffer, v_extend))
        )
        o_extend[start:end] = rows_of_attention(q_extend[start:end], k, v, is_causal, NO_WINDOW, sm_scale, logit_cap)[0]


def context_attention_fwd(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, b_start_loc: Tensor, b_seq_len: Tensor, max_input_len: int,
    is_causal: bool = True,
) -> None:  # fmt: skip
    """Each sequence's queries over its own keys, scaled by 1 / sqrt(D)."""
    for start, n in zip(b_start_loc.tolist(), b_seq_len.tolist(), strict=False):
        assert n <= max_input_len
        own = slice(start, start + n)
        o[own] = rows_of_attention(q[own], k[own], v[own], is_causal, NO_WINDOW, q.shape[2] ** -0.5)[0]


def persistent_lean_attention_paged(
    q: Tensor, k: Tensor, v: Tensor, kv_block_tables: Tensor, Mp: Tensor, Lp: Tensor, Op: Tensor, locks: Tensor,
    batch_num_block_n: Tensor, total_programs: int, BLOCK_M: int, BLOCK_N: int, batch_size: int, sm_scale: float,
    num_warps: int, waves_per_eu: int,
) -> Tensor:  # fmt: skip
    """Head by head; tiles of BLOCK_N rows, numbered by the table, which has them for every head in turn."""
    heads, rows, head_dim = q.shape
    assert q.is_contiguous()
    assert rows == batch_size * BLOCK_M
    assert k.stride(0) == v.stride(0), "V is offset by K's stride between heads"
    tiles = k.shape[1] // BLOCK_N
    assert batch_num_block_n.dtype == torch.int32
    assert int(batch_num_block_n[-1]) == tiles
    assert kv_block_tables.shape == (heads * tiles,)
    assert not locks.any()
    assert Mp.shape == Lp.shape == (total_programs, BLOCK_M)
    assert Op.shape == (total_programs, BLOCK_M, head_dim)
    assert 1 <= total_programs <= heads * tiles
    out, ends = torch.empty_like(q), [0, *batch_num_block_n.tolist()]
    for head in range(heads):
        for b, (first, end) in enumerate(pairwise(ends)):
            blocks = kv_block_tables[head * tiles + first : head * tiles + end].tolist()
            keys, values = (torch.cat([_tile(x, head, block, BLOCK_N) for block in blocks])[:, None] for x in (k, v))
            own = slice(b * BLOCK_M, (b + 1) * BLOCK_M)
            out[head, own] = rows_of_attention(q[head, own, None], keys, values, False, NO_WINDOW, sm_scale)[0][:, 0]
    return out


def _tile(x: Tensor, head: int, block: int, rows: int) -> Tensor:
    """Rows of one head, wherever the pointer leads: `x` is no longer than the batch, its pool may be."""
    at = x.storage_offset() + head * x.stride(0) + block * rows * x.stride(1)
    return x.as_strided((rows, x.shape[2]), x.stride()[1:], at)


def varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    causal: bool, window: tuple[int, int], scale: float, **features: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Out [T, Hq, D] and lse [T, Hq] of packed queries over packed keys."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert int(cu_seqlens_q[-1]) == len(q)
    assert int(cu_seqlens_k[-1]) == len(k) == len(v)
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:2])
    for (q0, q1), (k0, k1) in zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True):
        assert q1 - q0 <= max_seqlen_q
        assert k1 - k0 <= max_seqlen_k
        out[q0:q1], lse[q0:q1] = rows_of_attention(q[q0:q1], k[k0:k1], v[k0:k1], causal, window, scale, **features)
    return out, lse


KERNELS: dict[str, Callable[..., Any]] = {
    "aiter_pa_decode": paged_attention_decode,
    "aiter_mha": mha_varlen,
    "aiter_mha_v3": mha_v3_varlen,
    "aiter_mha_v3_kvcache": kvcache,
    "aiter_chunked_prefill": chunked_prefill_paged_decode,
    "aiter_extend": extend_attention_fwd,
    "aiter_prefill": context_attention_fwd,
    "aiter_lean_paged": persistent_lean_attention_paged,
}
