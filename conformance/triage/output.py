"""A wrong output, and how far it is from any answer: in units of the rounding that the judge allows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from conformance.budget import Allowance, allowance
from conformance.case import Case
from conformance.judge import elements_out, judge
from conformance.rounding import UNIT_ROUNDOFF, RoundingProfile
from conformance.status import Status
from reference import Attention, RoundingSums

LARGEST_ENERGY = 1e12
"""Stands for an error beyond all measure, and for NaN where a number was due, or the reverse."""

ROUNDED = 1e3
"""Coarser rounding than is declared makes no error beyond so many times the noise of a row."""

SEQUENCES_SAMPLED, QUERIES_SAMPLED = 2, 4
"""So many sequences that are wrong, and of each so many queries, are asked about first."""


@dataclass(frozen=True)
class Fit:
    """How an output compares with an answer."""

    passes: bool  # it would pass, were that the oracle's answer
    share: float  # of the wrong elements, those that come within the budget; below 1 unless it passes
    worse: float  # of the others, those that leave it


@dataclass
class WrongOutput:
    """`out` [T, Hq, D] and `lse` [T, Hq] or None of a case, on the CPU, with the oracle's answer and what it allows."""

    case: Case
    stored: Tensor
    stored_lse: Tensor | None
    profile: RoundingProfile | None
    want: Attention
    allowed: Allowance = field(init=False)
    out: Tensor = field(init=False)  # float64
    lse: Tensor | None = field(init=False)
    wrong: Tensor = field(init=False)  # bool [T, Hq, D]
    wrong_lse: Tensor | None = field(init=False)  # bool [T, Hq]
    sequence: Tensor = field(init=False)  # of each token
    small: bool = field(init=False)  # is the error of a size that rounding may have?

    def __post_init__(self) -> None:
        self.stored, self.want = self.stored.cpu(), on_the_cpu(self.want)
        self.stored_lse = None if self.stored_lse is None else self.stored_lse.cpu()
        self.allowed = allowance(self.case, self.want, self.profile)
        self.out = self.stored.double()
        self.lse = None if self.stored_lse is None else self.stored_lse.double()
        self.wrong = elements_out(self.out, self.want, self.allowed)
        self.wrong_lse = None
        if self.lse is not None:
            self.wrong_lse = (self.lse != self.want.lse) & ~((self.lse - self.want.lse).abs() <= self.allowed.lse)
        self.sequence = torch.arange(self.case.batch).repeat_interleave(torch.tensor(self.case.query_lens))
        noise = _squares(self.out, self.want.out, self.allowed.variance).mean(-1).sqrt()
        self.small = float(noise.max()) < ROUNDED

    def energy(self, answer: Attention, tokens: Tensor, most: float = LARGEST_ENERGY) -> Tensor:
        """Error energy of some rows by another answer to them, [t, Hq]; of each element so much at most."""
        out = self.out[tokens]
        squares = _squares(out, answer.out, self._variance(out, answer.out, tokens)).clamp(max=most).sum(2)
        if self.lse is not None:
            squares += _squares(self.lse[tokens], answer.lse, self.allowed.lse[tokens].square())
        return squares

    def apart(self, one: Attention, other: Attention) -> float:
        """By how much two answers to all rows differ, at most, in units of the noise of an output like this."""
        every = torch.arange(self.case.tokens)
        squares = _squares(one.out, other.out, self._variance(one.out, other.out, every)).max()
        if self.lse is not None:
            squares = squares.maximum(_squares(one.lse, other.lse, self.allowed.lse.square()).max())
        return float(squares.sqrt())

    def _variance(self, one: Tensor, other: Tensor, tokens: Tensor) -> Tensor:
        """Of the error that rounding makes, [t, Hq, D].

        The oracle allows none where it sees no key: there the numbers themselves say what an error is.
        """
        least = (UNIT_ROUNDOFF[self.case.dtype] / 4 * (one.abs() + other.abs())).square()
        return self.allowed.variance[tokens] + least

    def by_sequence(self, energy: Tensor, tokens: Tensor) -> Tensor:
        """Of the rows [t, Hq] of these tokens, [B]."""
        total = torch.zeros(self.case.batch, dtype=torch.float64)
        return total.index_add_(0, self.sequence[tokens], energy.sum(1))

    def left(self, energy: Tensor, truth: Tensor, tokens: Tensor) -> float:
        """Of the error energy, what is left where each sequence went the better of the two ways."""
        other, own = (self.by_sequence(rows, tokens) for rows in (energy, truth))
        return float(other.minimum(own).sum() / own.sum()) if float(own.sum()) else 1.0

    def sampled(self) -> Tensor:
        """Some queries of the sequences that are most wrong: the most wrong, the last and the first."""
        badness = self.wrong.double().mean((1, 2))
        if self.wrong_lse is not None:
            badness = badness + self.wrong_lse.double().mean(1)
        of_sequence = torch.zeros(self.case.batch, dtype=torch.float64).index_add_(0, self.sequence, badness)
        chosen: list[int] = []
        for b in of_sequence.argsort(descending=True, stable=True).tolist():
            start, m = self.case.query_starts[b], self.case.query_lens[b]
            if len(chosen) >= SEQUENCES_SAMPLED * QUERIES_SAMPLED or not m or (chosen and not of_sequence[b]):
                continue
            order = badness[start : start + m].argsort(descending=True, stable=True).tolist()
            chosen += [start + i for i in list(dict.fromkeys((order[0], m - 1, 0, *order)))[:QUERIES_SAMPLED]]
        return torch.tensor(sorted(chosen))

    def fit(self, answer: Attention) -> Fit:
        """Judge the output by another answer than the oracle's, sums included: the same budget and the same judge."""
        out, lse, as_number = self._numbers(answer)
        is_out = elements_out(out, as_number, allowance(self.case, as_number, self.profile))
        passes = not bool(is_out.any())
        passes = passes and judge(self.case, as_number, out, lse, self.profile).status is Status.PASS
        was = self.wrong if bool(self.wrong.any()) else torch.ones_like(self.wrong)
        share = float((was & ~is_out).sum() / was.sum())
        worse = float((is_out & ~was).sum()) / max(1.0, float((~was).sum()))
        return Fit(passes, 1.0 if passes else min(share, 0.999), worse)

    def _numbers(self, answer: Attention) -> tuple[Tensor, Tensor | None, Attention]:
        """Output, lse and answer as the judge takes them: what is a number in neither is 0 in both."""
        neither = _same(self.out, answer.out) & ~answer.out.isfinite()
        sums = {name: value.nan_to_num(nan=0.0, posinf=0.0) for name, value in vars(answer.sums).items()}
        lse, its = self.stored_lse, answer.lse
        if lse is not None:
            nan = its.isnan() & _same(lse, its)
            lse, its = lse.masked_fill(nan, 0.0), its.masked_fill(nan, 0.0)
        out = answer.out.masked_fill(neither, 0.0)  # what is no number in the answer alone is beyond every bound
        return self.stored.masked_fill(neither, 0.0), lse, replace(answer, out=out, lse=its, sums=RoundingSums(**sums))


def on_the_cpu(want: Attention) -> Attention:
    """The same answer in the CPU's memory."""

    def moved(part: Any) -> Any:
        return None if part is None else type(part)(**{name: value.cpu() for name, value in vars(part).items()})

    return Attention(want.out.cpu(), want.lse.cpu(), moved(want.sums), moved(want.parts))


def mixed(changed: Attention, want: Attention, rows: Tensor) -> Attention:
    """Some rows, bool [T], by the one answer, the others by the other; parts round as they should have."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (a.dim() - 1)), a, b)

    sums = {name: choose(value, getattr(want.sums, name)) for name, value in vars(changed.sums).items()}
    return Attention(choose(changed.out, want.out), choose(changed.lse, want.lse), RoundingSums(**sums), want.parts)


def _same(got: Tensor, want: Tensor) -> Tensor:
    """Equal, or NaN where that is due; a kernel that guards against a denominator of 0 makes 0 of NaN."""
    return (got == want) | (want.isnan() & (got.isnan() | (got == 0)))


def _squares(got: Tensor, want: Tensor, variance: Tensor) -> Tensor:
    """Squared errors in units of their variance, bounded; equal infinities, and NaN where NaN is, are no error."""
    same = _same(got, want)
    squares = ((got - want).square() / variance).nan_to_num(nan=LARGEST_ENERGY, posinf=LARGEST_ENERGY)
    squares = torch.where(same, 0.0, squares).clamp(max=LARGEST_ENERGY)
    return torch.where(same & want.isnan() & ~got.isnan(), 1.0, squares)  # a 0 for NaN fits, and a 0 for 0 fits better
