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
from conformance.inputs import TORCH_DTYPE, Inputs, queries
from conformance.rounding import RoundingProfile

LOG2E = math.log2(math.e)

T = TypeVar("T")


class Fault(Exception):
    """A page that is not there was looked up: the end of a process on a GPU."""


def as_asked(x: T) -> T:
    return x


def grouped(case: Case) -> Tensor:
    """The KV head that each query head reads."""
    return torch.arange(case.q_heads) // case.gqa_ratio


def capped(scores: Tensor, cap: float) -> Tensor:
    """Both in base 2."""
    return cap * torch.tanh(scores / cap)


@dataclass(frozen=True, kw_only=True)
class Flash:
    """Online softmax over tiles of keys, in base 2, for one sequence after the other."""

    # how a correct kernel may work
    tile: int = 32
    splits: int = 1  # ranges of tiles, each with a softmax of its own, merged at the end
    rounds_q: bool = False  # q * scale * log2(e) to q's dtype, before it meets K
    keeps_p: bool = False  # the weights stay float32 in the product with V

    # what a wrong kernel does: where things lie
    first_query: Callable[[Case, int], int] = lambda case, b: case.query_starts[b]
    length: Callable[[Case, int], int] = lambda case, b: case.seq_lens[b]
    table: Callable[[Case, int, Tensor], Tensor] = lambda case, b, table: table[b]
    entries: Callable[[Case, int], int] = lambda case, end: -(-end // case.page_size)  # looked up, for so many keys
    caches: Callable[[Case, Inputs], tuple[Tensor, Tensor]] = lambda case, inputs: (inputs.k_cache, inputs.v_cache)
    queries: Callable[[Case, Inputs], Tensor] = queries
    head_dim: Callable[[int], int] = as_asked  # elements of q and K that meet
    kv_head: Callable[[Case], Tensor] = grouped
    descales: Callable[[Case, Inputs], tuple[Tensor | None, Tensor | None]] = lambda case, inputs: (
        inputs.k_descale,
        inputs.v_descale,
    )

    # which keys it reads, and which of them a query sees
    keys: Callable[[Case, int], tuple[int, int]] = lambda case, n: (0, n)  # the first one, and past the last
    loads_tail: bool = False  # rows past the last key, with a weight of 0
    causal: Callable[[bool], bool] = as_asked
    diagonal: Callable[[int, int], int] = lambda n, m: 0  # the causal bound of m queries lies so far too far right
    left: int = 0  # the window reaches so many keys too far left
    right: int = 0
    window: Callable[[Case], tuple[int, int]] = lambda case: case.window

    # scores
    scale: Callable[[Case, float], float] = lambda case, scale: scale
    softcap: Callable[[Tensor, float], Tensor] = capped
    alibi_origin: Callable[[Tensor, int], Tensor] = lambda stand, n: stand
    slopes: Callable[[Case, Tensor], Tensor] = lambda case, slopes: slopes
    round_scores: Callable[[Tensor], Tensor] = as_asked
    masked: Callable[[Case], float] = lambda case: -math.inf  # the score of a key that is not seen

    # softmax
    maximum: Callable[[Tensor, Tensor, int], Tensor] = lambda running, tile, first: torch.maximum(running, tile)
    round_p: Callable[[Tensor, torch.dtype], Tensor] = lambda p, dtype: p.to(dtype).float()  # that is q's dtype
    counted: Callable[[Tensor, int], Tensor] = lambda p, first: p  # weights in the denominator, of keys from `first`
    counts_masked: bool = False
    accumulate: Callable[[Tensor], Tensor] = as_asked
    rescales: bool = True  # the accumulator, where the row maximum rises
    cut: Callable[[list[slice]], list[slice]] = as_asked  # the ranges of keys of the splits
    merges_by_weight: bool = True
    sink: Callable[[Case, Tensor], Tensor | None] = lambda case, sinks: sinks * LOG2E

    # what it stores
    finish: Callable[[Case, Tensor], Tensor] = lambda case, out: out  # float32 [T, Hq, D], before it is rounded
    lse: Callable[[Tensor, Tensor], Tensor] = lambda maximum, denominator: (maximum + denominator.log2()) / LOG2E

    def profile(self, case: Case) -> RoundingProfile:
        """What this kernel declares, and what it does unless a field of rounding or storing says otherwise."""
        p = "fp32" if self.keeps_p else case.dtype
        return RoundingProfile(out=case.dtype, p=p, scaled_q=case.dtype if self.rounds_q else None)

    def __call__(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """`out` [T, Hq, D] in the case's dtype and `lse` [T, Hq] float32. Raises Fault."""
        out = torch.full(inputs.q.shape, torch.nan)
        lse = torch.full(inputs.q.shape[:2], torch.nan)
        q = widened(self.queries(case, inputs), self.head_dim(case.head_dim))
        for b, m in enumerate(case.query_lens):
            rows = slice(case.query_starts[b], case.query_starts[b] + m)
            first = self.first_query(case, b)
            out[rows], lse[rows] = self.sequence(case, inputs, b, q[first : first + m])
        return self.finish(case, out).to(TORCH_DTYPE[case.dtype]), lse

    def sequence(self, case: Case, inputs: Inputs, b: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Out [m, Hq, D] and lse [m, Hq], float32, of the queries [m, Hq, D] of sequence `b`. Raises Fault."""
        n, m = self.length(case, b), len(q)
        first, end = self.keys(case, n)
        k, v = self._load(case, inputs, b, first, end)
        per_head = q.float() * (self.scale(case, inputs.scale) * LOG2E)
        if self.rounds_q:
            per_head = per_head.to(q.dtype).float()
        scores = self.round_scores(torch.einsum("mhd,nhd->hmn", per_head, k))
        stand = (n - m + torch.arange(m))[:, None]
        at = (first + torch.arange(len(k)))[None, :]
        if case.softcap:
            scores = self.softcap(scores, case.softcap * LOG2E)
        if inputs.alibi_slopes is not None:
            slopes = self.slopes(case, inputs.alibi_slopes) * LOG2E
            scores = scores + slopes[:, None, None] * (at - self.alibi_origin(stand, n))
        seen = self._seen(case, at, stand, n, m) & (at < end)
        parts = [
            self._softmax(scores[..., part], seen[..., part], self.masked(case), v[part], q.dtype)
            for part in self.cut(_ranges(len(k), self.tile, self.splits))
        ]
        maximum, denominator, acc = self._merge(parts)
        if inputs.sinks is not None and (sinks := self.sink(case, inputs.sinks)) is not None:
            sink = sinks[:, None].expand_as(maximum)
            raised = torch.maximum(maximum, sink)
            shrink = torch.exp2(maximum - raised)
            denominator, acc = denominator * shrink + torch.exp2(sink - raised), acc * shrink[..., None]
            maximum = raised
        out = torch.where(denominator[..., None] > 0, acc / denominator[..., None], 0.0)
        return out.transpose(0, 1), self.lse(maximum, denominator).transpose(0, 1)

    def _load(self, case: Case, inputs: Inputs, b: int, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values from `first` up to `end` (the whole of the last page, where tails are loaded): [N, Hq, D]."""
        k_cache, v_cache = self.caches(case, inputs)
        pages = self.table(case, b, inputs.block_table)[: self.entries(case, end)].long()
        if ((pages < 0) | (pages >= len(k_cache))).any():
            raise Fault(f"page {int(pages[(pages < 0) | (pages >= len(k_cache))][0])} of {len(k_cache)}")
        rows, kv_head = slice(first, None if self.loads_tail else end), self.kv_head(case)

        def load(cache: Tensor, descale: Tensor | None) -> Tensor:
            stored = cache[pages].flatten(0, 1)[rows].float()
            return (stored if descale is None else stored * descale[b][:, None])[:, kv_head]

        k_descale, v_descale = self.descales(case, inputs)
        return load(widened(k_cache, self.head_dim(case.head_dim)), k_descale), load(v_cache, v_descale)

    def _seen(self, case: Case, at: Tensor, stand: Tensor, n: int, m: int) -> Tensor:
        """Bool [m, N]."""
        left, right = self.window(case)
        seen = torch.ones(m, at.shape[1], dtype=torch.bool)
        if self.causal(case.causal):
            seen &= at <= stand + self.diagonal(n, m)
        if left >= 0:
            seen &= at >= stand - left - self.left
        if right >= 0:
            seen &= at <= stand + right + self.right
        return seen

    def _softmax(
        self, scores: Tensor, seen: Tensor, masked: float, v: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Row maximum and denominator [Hq, m] and sum of p v [Hq, m, D], of `scores` [Hq, m, N] and `v` [N, Hq, D]."""
        heads, m, n = scores.shape
        maximum = torch.full((heads, m), -math.inf)
        denominator, acc = torch.zeros(heads, m), torch.zeros(heads, m, v.shape[-1])
        for first in range(0, n, self.tile):
            tile = slice(first, first + self.tile)
            s = scores[..., tile].masked_fill(~seen[:, tile], masked)
            raised = self.maximum(maximum, s.amax(-1), first)
            base = raised.masked_fill(raised == -math.inf, 0.0)
            shrink, p = torch.exp2(maximum - base), torch.exp2(s - base[..., None])
            rounded = p if self.keeps_p else self.round_p(p, dtype)
            whole = torch.exp2(scores[..., tile] - base[..., None]) if self.counts_masked else p
            denominator = denominator * shrink + self.counted(whole, first).sum(-1)
            product = torch.einsum("hmn,nhd->hmd", rounded, v[tile])
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


def misread(x: Tensor, strides: tuple[int, ...], width: int | None = None) -> Tensor:
    """`x` as a kernel finds it that takes other strides, or a longer last dimension; zeros lie past its memory."""
    shape = (*x.shape[:-1], width or x.shape[-1])
    memory = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
    needed = x.storage_offset() + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if needed > len(memory):
        longer = torch.zeros(needed, dtype=x.dtype)
        longer[: len(memory)] = memory
        memory = longer
    return memory.as_strided(shape, strides, x.storage_offset())


def widened(x: Tensor, width: int) -> Tensor:
    """`x` [..., D] with `width` elements a row: past D lies whatever comes next in memory."""
    return x if width == x.shape[-1] else misread(x, x.stride(), width)


def through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Rounding to a dtype and back to float32."""
    return lambda x: x.to(dtype).float()
