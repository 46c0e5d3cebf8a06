"""Choosing AITER's kernel by the metadata, and calling it as vLLM does.

| batch                                | kernel                    | path             |
| ------------------------------------ | ------------------------- | ---------------- |
| causal decode, uniform or ragged     | `unified_attention`       | `unified`        |
| non-causal decode, uniform           | `flash_attn_with_kvcache` | `kvcache`        |
| non-causal decode, ragged            | the same, on padded rows  | `kvcache.padded` |

`unified_attention` is causal only, so nothing non-causal is ever sent there. What neither kernel computes is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conformance.dispatch.metadata import AttentionMetadata
from conformance.status import Unsupported


@dataclass(frozen=True, kw_only=True)
class AttentionLayer:
    """What a model layer fixes. `window` is (left, right) reach in keys, -1 for unbounded."""

    scale: float
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    k_descale: Tensor | None = None  # [B, Hkv] float32: what the stored keys and values are to be multiplied by
    v_descale: Tensor | None = None


@dataclass(frozen=True)
class Dispatched:
    """`out` [T, Hq, D], `lse` [T, Hq] where the kernel gives one, and the path that was taken."""

    out: Tensor
    lse: Tensor | None
    path: str


Kernel = Callable[..., Any]


def supports_non_causal() -> bool:
    """Non-causal batches are served: by `flash_attn_with_kvcache`."""
    return True


def forward(
    layer: AttentionLayer,
    metadata: AttentionMetadata,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    load: Callable[[str], Kernel],
) -> Dispatched:
    """Attention of `q` [T, Hq, D] over paged caches [num_blocks, block_size, Hkv, D]; `load` gives a kernel by name.

    Raises Unsupported where no kernel computes what is asked.
    """
    if metadata.num_extends or metadata.num_prefills:
        raise Unsupported("extend and prefill are not dispatched yet: decode only")
    if metadata.causal:
        return _unified(layer, metadata, q, k_cache, v_cache, load("unified"))
    return _kvcache(layer, metadata, q, k_cache, v_cache, load("kvcache"))


def _unified(
    layer: AttentionLayer, metadata: AttentionMetadata, q: Tensor, k_cache: Tensor, v_cache: Tensor, kernel: Kernel
) -> Dispatched:
    left, _ = layer.window  # a causal query sees nothing to its right: a window's right side changes nothing
    # Handed out as NaN, so that an element the kernel does not write cannot pass for a result.
    out = torch.full_like(q, torch.nan)
    kernel(
        q=q,
        k=k_cache,
        v=v_cache,
        out=out,
        cu_seqlens_q=metadata.query_start_loc,
        max_seqlen_q=metadata.max_query_len,
        seqused_k=metadata.seq_lens,
        max_seqlen_k=metadata.max_seq_len,
        softmax_scale=layer.scale,
        causal=True,
        window_size=(left, 0 if left >= 0 else -1),
        block_table=metadata.block_table,
        softcap=layer.softcap,
        q_descale=None,
        k_descale=layer.k_descale,
        v_descale=layer.v_descale,
        alibi_slopes=layer.alibi_slopes,
        sinks=layer.sinks,
    )
    return Dispatched(out, None, "unified")


def _kvcache(
    layer: AttentionLayer, metadata: AttentionMetadata, q: Tensor, k_cache: Tensor, v_cache: Tensor, kernel: Kernel
) -> Dispatched:
    for name, asked in (
        ("ALiBi", layer.alibi_slopes is not None),
        ("attention sinks", layer.sinks is not None),
        ("softcap", layer.softcap > 0),
        ("descale for 16-bit queries", layer.k_descale is not None or layer.v_descale is not None),
    ):
        if asked:
            raise Unsupported(f"flash_attn_with_kvcache has no {name}, and no other kernel is non-causal")
    sequences, m = metadata.seq_lens.shape[0], metadata.max_query_len
    rows = None if metadata.uniform_query_len else _right_aligned_rows(metadata)
    batched = q.view(sequences, m, *q.shape[1:]) if rows is None else _pad(q, rows, sequences * m).unflatten(0, (-1, m))
    out, lse = kernel(
        batched,
        k_cache,
        v_cache,
        cache_seqlens=metadata.seq_lens,
        softmax_scale=layer.scale,
        causal=False,
        window_size=layer.window,
        page_table=metadata.block_table,
        return_softmax_lse=True,
    )
    out, lse = out.flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)
    if rows is None:
        return Dispatched(out, lse, "kvcache")
    return Dispatched(out[rows], lse[rows], "kvcache.padded")


def _right_aligned_rows(metadata: AttentionMetadata) -> Tensor:
    """Where each packed query row goes in a batch of `max_query_len` rows a sequence, int64 [T].

    A sequence's queries are its *last* rows, so that the kernel, which places row i of m at key `n - m + i`, places
    them where they belong: windows stay right, and the rows in front, whatever they compute, are dropped. No value is
    read back from the device.
    """
    ends = metadata.query_start_loc[1:].long()
    token = torch.arange(metadata.num_actual_tokens, device=ends.device)
    sequence = torch.searchsorted(ends, token, right=True)
    return (sequence + 1) * metadata.max_query_len - ends[sequence] + token


def _pad(q: Tensor, rows: Tensor, total: int) -> Tensor:
    padded = q.new_zeros(total, *q.shape[1:])
    padded[rows] = q
    return padded
