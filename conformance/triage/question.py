"""The question that a case asks of the oracle, taken apart into steps that can be asked otherwise.

`reference.attend` is the definition of the operation. Here the same steps stand one by one, a sequence at a time and
with its scores in full, so that a counterfactual replaces one of them. Unchanged, they must give the oracle's answer:
`conformance.triage.attribution` checks that before it asks anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.triage.pages import Pages
from conformance.triage.softmax import Softmax, exact
from reference import Attention, RoundingSums

Interval = tuple[int, int]

Sides = tuple[float, float]
"""How many keys a window reaches to the left and to the right of a query; OPEN where it has no end."""

OPEN = inf


def capped(scores: Tensor, cap: float) -> Tensor:
    """Softcap as it is defined."""
    return cap * torch.tanh(scores / cap)


def dequantised(case: Case, inputs: Inputs, q: Tensor) -> Tensor:
    """Queries [T, Hq, D] as they were stored, in float64 and times their descales, if there are any."""
    q = q.double()
    if inputs.q_descale is None:
        return q
    of_head = inputs.q_descale.double().repeat_interleave(case.gqa_ratio, 1)
    return q * of_head.repeat_interleave(torch.tensor(case.query_lens), 0)[..., None]


def _side(keys: int) -> float:
    """A side of a case's window, which is open at -1."""
    return OPEN if keys < 0 else keys


@dataclass(frozen=True)
class Question:
    """What is asked. Every field but the first two may be replaced; those say what should have been asked.

    q [T, Hq, D] float64, dequantised; lens keys of each sequence, by which its queries stand; spans the keys that are
    read, where that is not all; bounds how many keys the causal bound of each sequence lies too far right; kv_head
    int64 [Hq], where it is not h // ratio; origins float64 [T], where ALiBi counts from; counts float64 [B, N] times
    that each key counts, where that is not once.
    """

    case: Case
    inputs: Inputs
    q: Tensor
    pages: Pages
    lens: tuple[int, ...]
    causal: tuple[bool, ...]
    bounds: tuple[int, ...]
    window: Sides
    scale: float
    slopes: Tensor | None
    sinks: Tensor | None  # [B, Hq]
    kv_head: Tensor | None = None
    spans: tuple[Interval, ...] | None = None
    origins: Tensor | None = None
    counts: Tensor | None = None
    loads_tail: bool = False  # rows after the last key are loaded, and multiplied by a weight of 0
    cap: Callable[[Tensor, float], Tensor] | None = capped
    round_scores: Callable[[Tensor], Tensor] | None = None
    softmax: Softmax = exact
    accumulate: Callable[[Tensor, Tensor], Tensor] | None = None  # weights [H, m, N] and values [H, N, D] -> [H, m, D]

    @classmethod
    def of(cls, case: Case, inputs: Inputs) -> Question:
        """What a case asks, on the CPU."""
        inputs = inputs.to(torch.device("cpu"))
        return cls(
            case=case,
            inputs=inputs,
            q=dequantised(case, inputs, inputs.q),
            pages=Pages.of(case, inputs),
            lens=case.seq_lens,
            causal=(case.causal,) * case.batch,
            bounds=(0,) * case.batch,
            window=(_side(case.window[0]), _side(case.window[1])),
            scale=inputs.scale,
            slopes=None if inputs.alibi_slopes is None else inputs.alibi_slopes.double(),
            sinks=None if inputs.sinks is None else inputs.sinks.double().expand(case.batch, -1),
        )

    @property
    def heads(self) -> Tensor:
        """The KV head that each query head reads, int64 [Hq]."""
        return torch.arange(self.case.q_heads) // self.case.gqa_ratio if self.kv_head is None else self.kv_head

    def span(self, b: int) -> Interval:
        """The keys of a sequence that are read: first, and past the last; no more than its row of the table holds."""
        first, end = self.spans[b] if self.spans else (0, self.lens[b])
        return min(first, self.pages.room), max(0, min(end, self.pages.room))

    def seen(self, b: int, queries: Tensor, keys: Tensor) -> Tensor:
        """Bool [m, N]: which of the keys each of some queries of a sequence sees."""
        first, end = self.span(b)
        at = keys[None] - (self.lens[b] - self.case.query_lens[b] + queries)[:, None]
        seen = ((keys >= first) & (keys < end))[None].expand_as(at)
        if self.causal[b]:
            seen = seen & (at <= self.bounds[b])
        left, right = self.window
        return seen & (at >= -left) & (at <= right)

    def weights(self, b: int, queries: Tensor) -> Tensor:
        """Softmax weights [Hq, m, N] of some queries of a sequence, over the keys that are read."""
        return self._rows(b, queries).weights

    def answer(self, tokens: Sequence[int] | None = None, *, sums: bool = False) -> Attention:
        """Exact attention of some packed query rows, or of all, in the order given: [t, Hq, D] and [t, Hq]."""
        tokens = range(self.case.tokens) if tokens is None else tokens
        starts, parts, order = self.case.query_starts, [], []
        for b in range(self.case.batch):
            own = [(at, token - starts[b]) for at, token in enumerate(tokens) if starts[b] <= token < starts[b + 1]]
            if own:
                order += [at for at, _ in own]
                parts.append(self._sequence(b, torch.tensor([i for _, i in own]), sums=sums))
        back = torch.tensor(order).argsort()
        columns = [torch.cat(column)[back] for column in zip(*parts, strict=True)]
        return Attention(columns[0], columns[1], RoundingSums(*columns[2:]) if sums else None)

    def _sequence(self, b: int, queries: Tensor, *, sums: bool) -> tuple[Tensor, ...]:
        """Output [m, Hq, D], lse [m, Hq], and the sums of `RoundingSums`, of some queries of a sequence."""
        rows = self._rows(b, queries)
        weights, v = rows.weights, rows.v
        out = self._by_head(weights, v) if self.accumulate is None else self.accumulate(weights, v[self.heads])
        every = (out, rows.lse, *(self._sums(rows, out) if sums else ()))
        return tuple(x.transpose(0, 1) for x in every)

    def _rows(self, b: int, queries: Tensor) -> _Rows:
        """Everything that the output of some queries of a sequence is made of."""
        end = self.span(b)[1]
        if self.loads_tail:
            end = -(-end // self.case.page_size) * self.case.page_size
        k, v, finite = self.pages.rows(b, end)
        at = torch.arange(end)
        seen = self.seen(b, queries, at)
        if not finite and not self.loads_tail:
            unseen = ~seen.any(0)[None, :, None]
            k, v = k.masked_fill(unseen, 0.0), v.masked_fill(unseen, 0.0)
        q = self.q[self.case.query_starts[b] + queries].transpose(0, 1) * self.scale  # [Hq, m, D]
        k = k[..., : q.shape[-1]].transpose(1, 2)
        scores = self._scores(b, self._by_head(q, k), queries, at)
        sink = None if self.sinks is None else self.sinks[b]
        count = None if self.counts is None else self.counts[b, : len(at)]
        weights, lse = self.softmax(scores, seen, sink, count)
        scores = scores.masked_fill(~seen, -torch.inf)
        top = scores.amax(-1) if len(at) else torch.full_like(lse, -torch.inf)
        return _Rows(q, k, v, seen, weights, lse, top if sink is None else top.maximum(sink[:, None]))

    def _sums(self, rows: _Rows, out: Tensor) -> tuple[Tensor, ...]:
        """What `reference.RoundingSums` says, of these weights: [Hq, m, D] and [Hq, m]."""
        size_v, v2 = rows.v.abs(), rows.v.square()
        p, p2 = rows.weights.abs(), rows.weights.square()
        p_a = p * self._by_head(rows.q.abs(), rows.k.abs())
        p2_b = p2 * self._by_head(rows.q.square(), rows.k.square())
        deviation = self._by_head(p2_b, v2) - 2 * out * self._by_head(p2_b, rows.v)
        deviation = (deviation + out.square() * p2_b.sum(-1, keepdim=True)).clamp(min=0.0)
        one = (rows.top - rows.lse).exp().nan_to_num(nan=0.0)[..., None]  # 1 / l
        visible = rows.seen.double().expand(len(rows.q), -1, -1)
        return (
            self._by_head(p, size_v), self._by_head(p_a, size_v), p_a.sum(-1), self._by_head(p2, v2), deviation,
            self._by_head(visible, size_v) * one, self._by_head(visible, v2) * one.square(),
        )  # fmt: skip

    def _by_head(self, rows: Tensor, shared: Tensor) -> Tensor:
        """`rows` [Hq, m, X] times `shared` [Hkv, X, Y] of the KV head of each: [Hq, m, Y]."""
        if self.kv_head is not None:
            return rows @ shared[self.kv_head]
        q_heads, m, width = rows.shape
        return (rows.reshape(len(shared), q_heads // len(shared) * m, width) @ shared).view(q_heads, m, -1)

    def _scores(self, b: int, scores: Tensor, queries: Tensor, at: Tensor) -> Tensor:
        """Scores [Hq, m, N] capped, rounded and biased."""
        if self.case.softcap and self.cap is not None:
            scores = self.cap(scores, self.case.softcap)
        if self.round_scores is not None:
            scores = self.round_scores(scores)
        if self.slopes is not None:
            token = self.case.query_starts[b] + queries
            stand = self.lens[b] - self.case.query_lens[b] + queries
            origin = stand if self.origins is None else self.origins[token]
            scores = scores + self.slopes[:, None, None] * (at - origin[:, None])
        return scores


@dataclass(frozen=True)
class _Rows:
    """Some queries of a sequence.

    Scaled q [Hq, m, D], K [Hkv, D, N], V [Hkv, N, D], seen [m, N], weights [Hq, m, N], lse and top score [Hq, m].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    seen: Tensor
    weights: Tensor
    lse: Tensor
    top: Tensor
