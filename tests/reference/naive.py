"""Paged attention one key at a time, in Python floats: the definition spelled out, to judge the oracle by.

Written from the definition (NUMERICS section 1) and the docstrings of `RoundingSums`, not from the oracle's code. Sums
are `math.fsum`, rounded once, so that a disagreement is the oracle's. Only the containers of the result are shared.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reference import Attention, RoundingSums


@dataclass(frozen=True)
class Key:
    """A key that a query sees: its logit, the bound and the noise energy of its score, its value."""

    logit: float
    bound: float  # A = scale * sum_d |q_d k_d|
    energy: float  # B = scale^2 * sum_d q_d^2 k_d^2
    value: list[float]


def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    *,
    scale: float,
    causal: bool,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
) -> Attention:
    """The same arguments and result as `reference.attend`, always with `RoundingSums`."""
    tokens, q_heads, head_dim = q.shape
    _, page_size, kv_heads, _ = k_cache.shape
    queries, k_pages, v_pages = q.double().tolist(), k_cache.double().tolist(), v_cache.double().tolist()
    slopes = alibi_slopes.double().tolist() if alibi_slopes is not None else None
    sink_of = sinks.double().tolist() if sinks is not None else None
    result = _blank(tokens, q_heads, head_dim)

    starts = query_start_loc.tolist()
    for b, n in enumerate(seq_lens.tolist()):
        m = starts[b + 1] - starts[b]
        table = block_table[b].tolist()
        for h in range(q_heads):
            kv = h // (q_heads // kv_heads)
            k_factor = float(k_descale[b, kv]) if k_descale is not None else 1.0
            v_factor = float(v_descale[b, kv]) if v_descale is not None else 1.0
            for i in range(m):
                query = queries[starts[b] + i][h]
                seen = []
                for j in range(n):
                    if not sees(i, j, m, n, causal=causal, window=window):
                        continue
                    key = [k_factor * x for x in k_pages[table[j // page_size]][j % page_size][kv]]
                    value = [v_factor * x for x in v_pages[table[j // page_size]][j % page_size][kv]]
                    products = [x * y for x, y in zip(query, key, strict=True)]
                    logit = scale * math.fsum(products)
                    if softcap > 0:
                        logit = softcap * math.tanh(logit / softcap)
                    if slopes is not None:
                        logit += slopes[h] * (j - (n - m + i))
                    bound = scale * math.fsum(abs(x) for x in products)
                    energy = scale**2 * math.fsum(x**2 for x in products)
                    seen.append(Key(logit, bound, energy, value))
                _write_row(result, (starts[b] + i, h), seen, sink_of[h] if sink_of is not None else None)
    return result


def sees(i: int, j: int, m: int, n: int, *, causal: bool, window: tuple[int, int]) -> bool:
    """Does query i of m see key j of n?"""
    left, right = window
    if not 0 <= j < n:
        return False
    if causal and not j <= n - m + i:
        return False
    if not (left < 0 or j >= n - m + i - left):
        return False
    return right < 0 or j <= n - m + i + right


def _blank(tokens: int, q_heads: int, head_dim: int) -> Attention:
    """Every row as that of a query which sees no key."""

    def wide() -> Tensor:
        return torch.zeros(tokens, q_heads, head_dim, dtype=torch.float64)

    narrow = torch.zeros(tokens, q_heads, dtype=torch.float64)
    return Attention(
        out=wide(),
        lse=torch.full_like(narrow, -math.inf),
        sums=RoundingSums(wide(), wide(), narrow, wide(), wide(), wide(), wide()),
    )


def _write_row(result: Attention, row: tuple[int, int], seen: list[Key], sink: float | None) -> None:
    """Fill in row (token, head) from the keys that it sees; the sink counts in the denominator alone."""
    logits = [key.logit for key in seen] + ([] if sink is None else [sink])
    if not logits:
        return
    top = max(logits)
    denominator = math.fsum(math.exp(x - top) for x in logits)
    result.lse[row] = top + math.log(denominator)
    p = [math.exp(key.logit - top) / denominator for key in seen]
    weighted = list(zip(p, seen, strict=True))

    sums = result.sums
    assert sums is not None
    sums.weighted_score[row] = math.fsum(p * key.bound for p, key in weighted)
    for d in range(result.out.shape[-1]):
        at = (*row, d)
        out = math.fsum(p * key.value[d] for p, key in weighted)
        result.out[at] = out
        sums.weighted_v[at] = math.fsum(p * abs(key.value[d]) for p, key in weighted)
        sums.weighted_score_v[at] = math.fsum(p * key.bound * abs(key.value[d]) for p, key in weighted)
        sums.squared_v[at] = math.fsum(p**2 * key.value[d] ** 2 for p, key in weighted)
        sums.squared_score_deviation[at] = math.fsum(
            p**2 * key.energy * (key.value[d] - out) ** 2 for p, key in weighted
        )
        sums.visible_v[at] = math.fsum(abs(key.value[d]) for key in seen) / denominator
        sums.visible_v_squared[at] = math.fsum(key.value[d] ** 2 for key in seen) / denominator**2
