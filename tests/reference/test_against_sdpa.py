"""The oracle against PyTorch's own attention in float64, on gathered pages, at the sizes of real models."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reference import Attention, attend
from tests.reference.comparing import assert_close, assert_same
from tests.reference.problems import random_problem

SHAPES: dict[str, Any] = {
    "one query": {"query_lens": (1, 1, 1), "seq_lens": (700, 1, 1500), "q_heads": 32, "kv_heads": 8, "head_dim": 128},
    "drafts": {"query_lens": (16, 8, 5), "seq_lens": (1000, 129, 16), "q_heads": 32, "kv_heads": 8, "head_dim": 128},
    "one KV head": {"query_lens": (4, 4), "seq_lens": (1025, 333), "q_heads": 16, "kv_heads": 1, "head_dim": 64},
    "no sharing": {"query_lens": (3, 9), "seq_lens": (517, 900), "q_heads": 12, "kv_heads": 12, "head_dim": 96},
    "prefill": {"query_lens": (200, 130), "seq_lens": (200, 300), "q_heads": 8, "kv_heads": 2, "head_dim": 64},
}

OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"causal": True},
    "noncausal": {"causal": False},
    "left window": {"causal": True, "window": (127, 0)},
    "both windows": {"causal": False, "window": (100, 7)},
    "alibi": {"causal": True, "alibi": True},
    "sinks": {"causal": False, "sinks": True},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    ("shape", "page_size"), list(zip(SHAPES, (16, 48, 1024, 1, 64), strict=True)), ids=list(SHAPES)
)
def test_against_sdpa(shape: str, page_size: int, option: str) -> None:
    problem = random_problem(**SHAPES[shape], dtype=torch.bfloat16, **OPTIONS[option])
    arguments = problem.paged(page_size=page_size, layout="packed")
    got, want = attend(**arguments, tile_bytes=2**20), sdpa(**arguments)
    assert_same(got, want, ("out", "lse"))


def test_scores_of_any_offset_and_size() -> None:
    """Large logits, where a running maximum has to move."""
    problem = random_problem(**SHAPES["drafts"], scale=3.0)
    arguments = problem.paged(page_size=16)
    assert_close("out", attend(**arguments, tile_bytes=1).out, sdpa(**arguments).out)


def sdpa(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    *,
    scale: float,
    causal: bool,
    window: tuple[int, int],
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    **_: Any,
) -> Attention:
    """One sequence at a time: its pages in a row, a dense mask, a sink as one more key of value zero."""
    q_heads, kv_heads = q.shape[1], k_cache.shape[2]
    outs, lses = [], []
    for b, n in enumerate(seq_lens.tolist()):
        first, last = query_start_loc[b : b + 2].tolist()
        m = last - first
        pages = block_table[b, : -(-n // k_cache.shape[1])].long()
        k, v = (
            cache[pages].flatten(0, 1)[:n].double().repeat_interleave(q_heads // kv_heads, dim=1).transpose(0, 1)
            for cache in (k_cache, v_cache)
        )
        mask = torch.ones(m, n, dtype=torch.bool)
        left, right = window
        mask = mask.tril(n - m) if causal else mask
        mask = mask.triu(n - m - left) if left >= 0 else mask
        mask = mask.tril(n - m + right) if right >= 0 else mask
        bias = torch.zeros(q_heads, m, n, dtype=torch.float64)
        if alibi_slopes is not None:
            distance = torch.arange(n)[None, :] - (n - m + torch.arange(m))[:, None]
            bias += alibi_slopes.double()[:, None, None] * distance
        bias.masked_fill_(~mask, -torch.inf)
        if sinks is not None:
            k, v = (torch.cat((x, torch.zeros_like(x[:, :1])), 1) for x in (k, v))
            bias = torch.cat((bias, sinks.double()[:, None, None].expand(-1, m, 1)), 2)
        queries = q[first:last].double().transpose(0, 1)
        out = scaled_dot_product_attention(queries[None], k[None], v[None], attn_mask=bias[None], scale=scale)[0]
        outs.append(out.transpose(0, 1))
        lses.append((queries @ k.transpose(1, 2) * scale + bias).logsumexp(-1).T)
    return Attention(torch.cat(outs), torch.cat(lses))
