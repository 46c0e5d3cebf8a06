"""A flash-attention kernel in float32 PyTorch: what a correct kernel rounds, and every way in which one goes wrong.

The defaults make a correct kernel. A defect is one field that differs, so that it reads as what it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile

LOG2E = math.log2(math.e)


T = TypeVar("T")


def as_asked(x: T) -> T:
    return x


def grouped(case: Case) -> Tensor:
    """The KV head that each query head reads."""
    return torch.arange(case.q_heads) // case.gqa_ratio


@dataclass(frozen=True, kw_only=True)
class Flash:
    """Online softmax over tiles of keys, in base 2, for one sequence after the other."""

    # how a correct kernel may work
    tile: int = 32
    splits: int = 1  # ranges of tiles, each with a softmax of its own, merged at the end
    rounds_q: bool = False  # q * scale * log2(e) to q's dtype, before it meets K

    # what a wrong kernel does
    scale: Callable[[float], float] = as_asked
    causal: Callable[[bool], bool] = as_asked
    diagonal: Callable[[int, int], int] = lambda n, m: 0  # the causal bound of m queries lies so far too far right
    left: int = 0  # the window reaches so many keys too far left
    right: int = 0
    windowed: bool = True
    keys: Callable[[Case, int], tuple[int, int]] = lambda case, n: (0, n)  # the first one read, and past the last
    loads_tail: bool = False  # rows past the last key, with a weight of 0
    table: Callable[[Case, int, Tensor], Tensor] = lambda case, b, table: table[b]
    kv_head: Callable[[Case], Tensor] = grouped
    k_for_v: bool = False
    round_p: Callable[[Tensor], Tensor] | None = None  # instead of rounding the weights to q's dtype
    accumulate: Callable[[Tensor], Tensor] = as_asked
    rescales: bool = True  # the accumulator, where the row maximum rises
    merges_by_weight: bool = True
    finish: Callable[[Tensor], Tensor] = as_asked  # float32 [T, Hq, D], before it is rounded and stored
    lse_base: float = math.e
    forgets: frozenset[str] = frozenset()  # softcap, alibi, sinks

    def profile(self, case: Case) -> RoundingProfile:
        """What this kernel declares, and what it does unless `round_p`, `accumulate` or `finish` say otherwise."""
        return RoundingProfile(out=case.dtype, p=case.dtype, scaled_q=case.dtype if self.rounds_q else None)

    def __call__(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """`out` [T, Hq, D] in the case's dtype and `lse` [T, Hq] float32."""
        out = torch.full(inputs.q.shape, torch.nan)
        lse = torch.full(inputs.q.shape[:2], torch.nan)
        for b, m in enumerate(case.query_lens):
            rows = slice(case.query_starts[b], case.query_starts[b] + m)
            out[rows], lse[rows] = self._sequence(case, inputs, b, inputs.q[rows])
        return self.finish(out).to(inputs.q.dtype), lse / math.log(self.lse_base)

    def _sequence(self, case: Case, inputs: Inputs, b: int, q: Tensor) -> tuple[Tensor, Tensor]:
        n, m = case.seq_lens[b], len(q)
        first, end = self.keys(case, n)
        pages = self.table(case, b, inputs.block_table)[: -(-end // case.page_size)].long()
        rows = slice(first, None if self.loads_tail else end)
        kv_head = self.kv_head(case)
        caches = (inputs.k_cache, inputs.k_cache if self.k_for_v else inputs.v_cache)
        k, v = (cache[pages].flatten(0, 1)[rows, kv_head].float() for cache in caches)
        per_head = q.float() * (self.scale(inputs.scale) * LOG2E)
        if self.rounds_q:
            per_head = per_head.to(q.dtype).float()
        scores = torch.einsum("mhd,nhd->hmn", per_head, k)
        stand = (n - m + torch.arange(m))[:, None]
        at = (first + torch.arange(len(k)))[None, :]
        if case.softcap and "softcap" not in self.forgets:
            cap = case.softcap * LOG2E
            scores = cap * torch.tanh(scores / cap)
        if inputs.alibi_slopes is not None and "alibi" not in self.forgets:
            scores = scores + (inputs.alibi_slopes * LOG2E)[:, None, None] * (at - stand)
        seen = self._seen(case, at, stand, n, m) & (at < end)
        scores = scores.masked_fill(~seen, -math.inf)
        parts = [self._softmax(scores[..., part], v[part], q.dtype) for part in _ranges(len(k), self.tile, self.splits)]
        maximum, denominator, acc = self._merge(parts)
        if inputs.sinks is not None and "sinks" not in self.forgets:
            sink = (inputs.sinks * LOG2E)[:, None].expand_as(maximum)
            raised = torch.maximum(maximum, sink)
            shrink = torch.exp2(maximum - raised)
            denominator, acc = denominator * shrink + torch.exp2(sink - raised), acc * shrink[..., None]
            maximum = raised
        out = torch.where(denominator[..., None] > 0, acc / denominator[..., None], 0.0)
        return out.transpose(0, 1), ((maximum + denominator.log2()) * math.log(2)).transpose(0, 1)

    def _seen(self, case: Case, at: Tensor, stand: Tensor, n: int, m: int) -> Tensor:
        """Bool [m, N]."""
        left, right = case.window if self.windowed else (-1, -1)
        seen = torch.ones(m, at.shape[1], dtype=torch.bool)
        if self.causal(case.causal):
            seen &= at <= stand + self.diagonal(n, m)
        if left >= 0:
            seen &= at >= stand - left - self.left
        if right >= 0:
            seen &= at <= stand + right + self.right
        return seen

    def _softmax(self, scores: Tensor, v: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Row maximum and denominator [Hq, m] and sum of p v [Hq, m, D], of `scores` [Hq, m, N] and `v` [N, Hq, D]."""
        heads, m, n = scores.shape
        maximum = torch.full((heads, m), -math.inf)
        denominator, acc = torch.zeros(heads, m), torch.zeros(heads, m, v.shape[-1])
        for first in range(0, n, self.tile):
            s = scores[..., first : first + self.tile]
            raised = torch.maximum(maximum, s.amax(-1))
            base = raised.masked_fill(raised == -math.inf, 0.0)
            shrink, p = torch.exp2(maximum - base), torch.exp2(s - base[..., None])
            rounded = self.round_p(p) if self.round_p else p.to(dtype).float()
            denominator = denominator * shrink + p.sum(-1)
            product = torch.einsum("hmn,nhd->hmd", rounded, v[first : first + self.tile])
            acc = self.accumulate((acc * shrink[..., None] if self.rescales else acc) + product)
            maximum = raised
        return maximum, denominator, acc

    def _merge(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        maxima, denominators, accs = (torch.stack(x) for x in zip(*parts, strict=True))
        maximum = maxima.amax(0)
        weight = torch.exp2(maxima - maximum.masked_fill(maximum == -math.inf, 0.0))
        if not self.merges_by_weight:
            weight = torch.ones_like(weight)
        return maximum, (denominators * weight).sum(0), (accs * weight[..., None]).sum(0)


def _ranges(n: int, tile: int, splits: int) -> list[slice]:
    """`n` keys cut into at most `splits` ranges of whole tiles; one empty range where there are no keys."""
    size = max(1, -(-n // (tile * splits))) * tile
    return [slice(first, min(first + size, n)) for first in range(0, n, size)] or [slice(0, 0)]


def through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Rounding to a dtype and back to float32."""
    return lambda x: x.to(dtype).float()
