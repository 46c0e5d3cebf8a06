"""AITER's two kernels as the dispatch knows them, written plainly in float64, and batches that reach them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.case import Case
from conformance.dispatch import (
    AttentionLayer,
    AttentionMetadata,
    Dispatched,
    MetadataBuilder,
    ScheduledBatch,
    forward,
)
from conformance.execute import exact
from conformance.inputs import Inputs, make


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
                scores = scores + slopes[head].double() * (torch.arange(first, first + len(scores)) - stand)
            weights = scores.exp()
            total = weights.sum() + (sinks[head].double().exp() if sinks is not None else 0)
            if float(total) > 0:
                out[i, head] = weights @ v[first:end, kv].double() / total
                lse[i, head] = total.log()
    return out, lse


def unified(
    *, q: Tensor, k: Tensor, v: Tensor, out: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int, seqused_k: Tensor,
    max_seqlen_k: int, softmax_scale: float, causal: bool, window_size: tuple[int, int], block_table: Tensor,
    softcap: float, q_descale: None, k_descale: Tensor | None, v_descale: Tensor | None,
    alibi_slopes: Tensor | None = None, sinks: Tensor | None = None,
) -> None:  # fmt: skip
    """Causal only, packed queries, and blind to the right side of a window, as AITER's is."""
    assert causal, "Only causal attention is supported"
    starts = cu_seqlens_q.tolist()
    assert max(b - a for a, b in pairwise(starts)) <= max_seqlen_q
    assert int(seqused_k.max()) <= max_seqlen_k
    for b, (start, end) in enumerate(pairwise(starts)):
        keys, values = (
            pages_of(cache, block_table[b], int(seqused_k[b])).double() * (1.0 if descale is None else descale[0, 0])
            for cache, descale in ((k, k_descale), (v, v_descale))
        )
        window = window_size[0], -1
        out[start:end] = rows_of_attention(
            q[start:end], keys, values, True, window, softmax_scale, softcap, alibi_slopes, sinks
        )[0].to(out.dtype)


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, *, cache_seqlens: Tensor, softmax_scale: float, causal: bool = True,
    window_size: tuple[int, int] = (-1, -1), page_table: Tensor, return_softmax_lse: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Queries [B, m, Hq, D], the same number for each sequence: out of that shape, and lse [B, Hq, m]."""
    assert return_softmax_lse
    out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[0], q.shape[2], q.shape[1])
    for b in range(len(q)):
        keys, values = (pages_of(cache, page_table[b], int(cache_seqlens[b])) for cache in (k_cache, v_cache))
        rows, sums = rows_of_attention(q[b], keys, values, causal, window_size, softmax_scale)
        out[b], lse[b] = rows.to(q.dtype), sums.T
    return out, lse


def pages_of(cache: Tensor, table: Tensor, n: int) -> Tensor:
    pages = -(-n // cache.shape[1])
    return cache[table[:pages].long()].flatten(0, 1)[:n]


@dataclass
class Kernels:
    """What `forward` loads from; remembers the calls."""

    called: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def load(self, name: str) -> Callable[..., Any]:
        kernel = {"unified": unified, "kvcache": flash_attn_with_kvcache}[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            self.called.append((name, kwargs))
            return kernel(*args, **kwargs)

        return call


def no_kernel(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        pytest.fail(f"{name} was called")

    return call


def scheduled(case: Case, inputs: Inputs, *, on_host: bool = True) -> ScheduledBatch:
    return ScheduledBatch(
        query_start_loc=inputs.query_start_loc,
        seq_lens=inputs.seq_lens,
        block_table=inputs.block_table,
        num_actual_tokens=case.tokens,
        max_query_len=max(case.query_lens),
        max_seq_len=case.key_bound,
        causal=case.causal,
        query_lens_on_host=case.query_lens if on_host else None,
        seq_lens_on_host=case.seq_lens if on_host else None,
    )


def built(case: Case, inputs: Inputs, *, for_drafting: bool = False) -> AttentionMetadata:
    builder = MetadataBuilder(decode_threshold=max(case.query_lens))
    if for_drafting:
        return builder.build_for_drafting(scheduled(case, inputs, on_host=False))
    return builder.build(scheduled(case, inputs))


def layer_of(case: Case, inputs: Inputs) -> AttentionLayer:
    return AttentionLayer(
        scale=inputs.scale,
        window=case.window,
        softcap=case.softcap,
        alibi_slopes=inputs.alibi_slopes,
        sinks=inputs.sinks,
        k_descale=inputs.k_descale,
        v_descale=inputs.v_descale,
    )


def served(case: Case, kernels: Kernels, *, for_drafting: bool = False, q: Tensor | None = None) -> Dispatched:
    inputs = make(case)
    q = inputs.q.double() if q is None else q  # so that the kernels here store float64, and can be compared exactly
    metadata = built(case, inputs, for_drafting=for_drafting)
    return forward(layer_of(case, inputs), metadata, q, inputs.k_cache, inputs.v_cache, load=kernels.load)


def assert_exact(case: Case, done: Dispatched) -> None:
    want = exact(case, make(case), sums=False)
    torch.testing.assert_close(done.out, want.out, rtol=1e-9, atol=1e-12)
    if done.lse is not None:
        torch.testing.assert_close(done.lse.double(), want.lse, rtol=1e-5, atol=1e-5)


WINDOWS = ((-1, -1), (5, -1), (-1, 3), (4, 2), (0, 0), (7, 0))

UNIFORM = {"one token": "b3-q1-h4:2-d16-p4-kv9+1+17", "drafts": "b3-q5-h4:2-d16-p4-kv30+5+9"}
RAGGED = {
    "ragged": "b3-q1+5+2-h4:2-d16-p4-kv9+5+21",
    "ragged with an idle sequence": "b4-q2+0+1x2-h2:2-d16-p8-kv7+3+8+20",
}
DRAFTS = UNIFORM | {"nothing to see": "b3-q4-h2:1-d16-p4-kv0+2+11"}
EDGES = {"nothing to see": "b3-q4-h2:1-d16-p4-kv0+2+11", "ragged, nothing to see": "b3-q4+1+2-h2:1-d16-p4-kv0+2+1"}


def case_of(mode: str, lengths: str, window: tuple[int, int] = (-1, -1), extra: str = "") -> Case:
    text = f"decode-{mode}-bf16-{lengths}{extra}-packed-random"
    return replace(Case.parse(text), window=window)
