"""Softmax as it is defined, and as kernels compute it, tile by tile and split by split, each step open to a mistake.

All give effective weights [H, m, N], so that the output is `weights @ V` whatever went wrong, and the lse [H, m].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

TILES = (16, 32, 64, 128)
"""Keys that kernels take at a time: whose they are, nobody says, so that each is tried."""


class Softmax(Protocol):
    """Scores [H, m, N], which of them are seen [m, N], a sink [H] or None, times that keys count [N] or None."""

    def __call__(
        self, scores: Tensor, seen: Tensor, sink: Tensor | None, count: Tensor | None
    ) -> tuple[Tensor, Tensor]: ...


def exact(scores: Tensor, seen: Tensor, sink: Tensor | None, count: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax as it is defined; a row that sees nothing has weights of 0."""
    scores = scores.masked_fill(~seen, -math.inf)
    if count is not None:
        scores = scores + count.log()
    lse = scores.logsumexp(-1) if scores.shape[-1] else scores.new_full(scores.shape[:2], -math.inf)
    if sink is not None:
        lse = torch.logaddexp(lse, sink[:, None].expand_as(lse))
    return (scores - lse.clamp(min=torch.finfo(lse.dtype).min)[..., None]).exp(), lse


@dataclass(frozen=True, kw_only=True)
class Tiled:
    """Online softmax over tiles of keys, in `splits` ranges of whole tiles, merged at the end."""

    tile: int = 64
    splits: int = 1
    rescales: bool = True  # what is accumulated, where the row maximum rises
    merges_by_weight: bool = True
    counts_first_tile: bool = True  # in the denominator
    counts_masked: bool = False  # in the denominator
    masked: float = -math.inf  # the score of a key that is not seen
    maximum: Callable[[Tensor, Tensor, int], Tensor] = lambda running, tile, _: torch.maximum(running, tile)
    round_p: Callable[[Tensor], Tensor] | None = None  # in the product with V
    round_sum: Callable[[Tensor], Tensor] | None = None  # each tile's, of the denominator
    dtype: torch.dtype = torch.float64  # float32 where overflow is the point

    def __call__(
        self, scores: Tensor, seen: Tensor, sink: Tensor | None, count: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `Softmax`."""
        scores = scores.to(self.dtype)
        if count is not None:
            scores = scores + count.log()
        keys = scores.shape[-1]
        size = max(1, -(-keys // (self.tile * self.splits))) * self.tile
        parts = [
            self._part(scores[..., first : first + size], seen[:, first : first + size])
            for first in range(0, max(keys, 1), size)
        ]
        top = torch.stack([maximum for _, maximum, _ in parts]).amax(0)
        base = top.masked_fill(top == -math.inf, 0.0)
        shares = [
            torch.exp(maximum - base) if self.merges_by_weight else torch.ones_like(maximum) for _, maximum, _ in parts
        ]
        weights = torch.cat([p * share[..., None] for (p, _, _), share in zip(parts, shares, strict=True)], -1)
        total = torch.stack([sum_ * share for (_, _, sum_), share in zip(parts, shares, strict=True)]).sum(0)
        if sink is not None:
            total = total + torch.exp(sink[:, None].to(self.dtype) - base)
        weights = torch.where(total[..., None] > 0, weights / total[..., None], torch.zeros_like(weights))
        weights = torch.where(total[..., None].isnan(), math.nan, weights)
        return weights.double(), (base + total.log()).double()

    def _part(self, scores: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [H, m, N] and their sum [H, m], relative to the row maximum [H, m] of some keys."""
        rows = scores.shape[:2]
        maximum, total = scores.new_full(rows, -math.inf), scores.new_zeros(rows)
        weights: list[Tensor] = []
        for first in range(0, scores.shape[-1], self.tile):
            some = slice(first, first + self.tile)
            s = scores[..., some].masked_fill(~seen[:, some], self.masked)
            raised = self.maximum(maximum, s.amax(-1), first)
            base = raised.masked_fill(raised == -math.inf, 0.0)
            shrink, p = torch.exp(maximum - base), torch.exp(s - base[..., None])
            whole = torch.exp(scores[..., some] - base[..., None]) if self.counts_masked else p
            added = whole.sum(-1) if self.counts_first_tile or first else torch.zeros_like(total)
            total = total * shrink + (added if self.round_sum is None else self.round_sum(added))
            if self.rescales:
                weights = [earlier * shrink[..., None] for earlier in weights]
            weights.append(p if self.round_p is None else self.round_p(p))
            maximum = raised
        return torch.cat(weights, -1) if weights else scores, maximum, total


@dataclass(frozen=True)
class BlindSegments:
    """Softmax in float32 in which a segment of `size` keys that a row sees nothing of has a maximum of 0."""

    size: int

    def __call__(
        self, scores: Tensor, seen: Tensor, sink: Tensor | None, count: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `Softmax`."""
        blind = [~seen[:, first : first + self.size].any(1) for first in range(0, seen.shape[1], self.size)]
        raised = torch.stack(blind).any(0) if blind else seen.any(1)

        def maximum(running: Tensor, tile: Tensor, _: int) -> Tensor:
            top = torch.maximum(running, tile)
            return torch.where(raised, top.clamp(min=0.0), top)

        weights, lse = Tiled(tile=1 << 20, maximum=maximum, dtype=torch.float32)(scores, seen, sink, count)
        lost = (weights.sum(-1) == 0) & seen.any(1)  # 0 divided by 0
        return weights.masked_fill(lost[..., None], math.nan), lse
