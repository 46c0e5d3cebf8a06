"""Which mistake would give the same wrong output: it is judged by each counterfactual's answer as by the oracle's.

A counterfactual explains an output that the judge would pass had the question been that one, and whose error it takes
away. The second is asked because a budget forgives: an output that is wrong by a hair may come within the budget of
any question that differs by as little, and then nothing is explained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.triage.causes import TABLE
from conformance.triage.causes.precision import as_declared, with_rounded_q
from conformance.triage.counterfactuals import Counterfactual
from conformance.triage.output import WrongOutput, mixed
from conformance.triage.question import Question
from reference import Attention

SECONDS = 30.0
"""So long counterfactuals are asked at most; how many were left out then is said."""

LEAST_TAKEN = 0.2
"""A counterfactual that takes less of the error energy away forgives, and does not explain."""

MENDED = 0.01
"""A row is mended if so little of its error energy is left."""

LEAST_MENDED = 0.1
"""One of two causes mends so many of the sampled rows at least, where it takes little of the error energy."""

SIMULATED, LEAST_SIMULATED = 0.5, 0.5
"""Rounding is simulated in other arithmetic, so that some numbers fall to the other side and stay wrong: it explains an
output if it leaves so little of the error energy, and at least so many elements come within the budget. Errors that are
not those of the simulation are added to them, and leave more than all."""

FEW_SIGMA = 16.0
"""Error energy of an element that is off by four times its noise. Rounding is everywhere: one that takes away the error
of a few elements alone, and not that of the many, is none that the kernel makes."""

NEARLY = 0.001
"""A mistake can lose digits besides, as where a denominator gets too small: one that leaves so little of the error
energy, brings at least half of the wrong elements within the budget and keeps the others there, explains an output that
nothing explains in full. NaN outweighs all other error, so that the energy alone tells only where it is."""

MOST_WORSE = 0.05
"""Of the right elements, those that may leave the budget then."""

SURVIVORS = 10
"""So many of those that take most of the error from the sampled rows are judged in full."""

PARTNERS = 3
"""Where none explains all, so many are combined with every other."""

GAINED = 0.5
"""Two causes leave less than so much of what the better of them leaves alone."""

LEAST_SHARE = 0.2
"""Of the wrong elements a cause must explain so much to be named as a part of it."""

ALIKE = 0.01
"""Answers that differ by less, in units of the noise of an element, are one: no output of the case tells them apart."""


@dataclass(frozen=True)
class Explanation:
    """One cause, or two together, each in its best variant."""

    causes: tuple[Counterfactual, ...]
    details: tuple[str, ...]
    share: float  # of the wrong elements, those that come within the budget
    worse: float  # of the others, those that leave it
    left: float  # of the error energy
    sequences: tuple[int, ...]  # those that it is needed for
    whole: bool  # the output would pass
    alike: tuple[Explanation, ...] = ()  # others that give the same answer to this case

    @property
    def name(self) -> str:
        """Of the causes."""
        return " and ".join(cause.name for cause in self.causes)

    @property
    def nearly(self) -> bool:
        """Does it leave next to nothing of the error, and the right elements right?"""
        return self.left <= NEARLY and self.share >= LEAST_SIMULATED and self.worse <= MOST_WORSE

    @property
    def rank(self) -> tuple[int, int]:
        """The lower, the likelier, among those that are alike."""
        return len(self.causes), max(cause.rank for cause in self.causes)

    @property
    def says(self) -> str:
        """In words, to complete "as if"."""
        pairs = zip(self.causes, self.details, strict=True)
        return ", and as if ".join(f"{cause.says} ({detail})" if detail else cause.says for cause, detail in pairs)


@dataclass(frozen=True)
class Attribution:
    """What explains an output, best first; where nothing does, what explains a part of it."""

    explains: tuple[Explanation, ...]
    partly: tuple[Explanation, ...]
    asked: int  # counterfactuals
    left_out: int  # for want of time
    seconds: float

    @property
    def names(self) -> tuple[str, ...]:
        """The causes that explain the output best, which the case cannot tell apart; the likeliest first."""
        first = self.explains[:1]
        return tuple(each.name for one in first for each in (one, *one.alike))


def attribute(
    case: Case,
    inputs: Inputs,
    want: Attention,
    out: Tensor,
    lse: Tensor | None = None,
    profile: RoundingProfile | None = None,
    *,
    table: Sequence[Counterfactual] = TABLE,
    seconds: float = SECONDS,
    pairs: bool = True,
) -> Attribution:
    """What explains a wrong `out` [T, Hq, D], and `lse` [T, Hq], of a case whose exact answer, with sums, is `want`.

    Everything may lie on any device, and is asked on the CPU. With `pairs`, two causes together are looked for where
    no single one explains all. Raises ValueError where the question, taken apart, does not give the oracle's answer.
    """
    began = perf_counter()
    search = _Search(WrongOutput(case, out, lse, profile, want), Question.of(case, inputs), began + seconds)
    found = search.among(table)
    if pairs and not any(each.whole for each, _ in found):
        found += search.together(table)
    answers = {id(each): answer for each, answer in found}
    whole = [each for each, _ in found if each.whole] or [each for each, _ in found if each.nearly]
    part = [each for each, _ in found if each.share - each.worse >= LEAST_SHARE] if not whole else []
    return Attribution(
        tuple(sorted(_grouped(whole, answers, search.output), key=lambda each: each.left)),
        tuple(sorted(_grouped(part, answers, search.output), key=lambda each: (each.worse - each.share, each.left))),
        search.asked,
        search.left_out,
        perf_counter() - began,
    )


@dataclass(frozen=True)
class _Tried:
    """One or two causes, each in one variant, and what they do to the error on the sampled rows."""

    causes: tuple[Counterfactual, ...]
    details: tuple[str, ...]
    question: Question
    left: float  # of the error energy
    mended: float  # of the rows

    @property
    def promises(self) -> bool:
        return self.left < 1 - LEAST_TAKEN or self.mended >= LEAST_MENDED

    @property
    def order(self) -> tuple[float, int]:
        return self.left, max((cause.rank for cause in self.causes), default=0)


class _Search:
    """Asks counterfactuals about some rows of an output, and judges what promises by all of it."""

    def __init__(self, output: WrongOutput, question: Question, until: float) -> None:
        self.output, self.question, self.until = output, question, until
        self.asked = self.left_out = 0
        self.tokens = output.sampled()
        plain = question.answer(self.tokens.tolist())
        size = float(output.want.out.abs().max())
        if not bool(((plain.out - output.want.out[self.tokens]).abs() <= 1e-9 * size).all()):
            raise ValueError("the question, taken apart, does not give the oracle's answer: attribution has a defect")
        self.truth = output.energy(plain, self.tokens)
        self.declared = self._left_by_what_is_declared() if output.small else 1.0
        self.tried: list[_Tried] = []

    @property
    def late(self) -> bool:
        return perf_counter() > self.until

    def _left_by_what_is_declared(self) -> float:
        """Of the error energy: that much is left, at the least, where what the kernel may round is simulated.

        A mistake that is simulated with its rounding takes as much away, and explains nothing by that.
        """
        profile = self.output.profile or RoundingProfile.flash(self.output.case.dtype)
        every = torch.arange(self.output.case.tokens)
        truth = self.output.energy(self.output.want, every)
        answers = (question.answer() for question in as_declared(self.question, profile))
        left = min(self.output.left(self.output.energy(answer, every), truth, every) for answer in answers)
        return min(1.0, max(left, MENDED))

    def _left_of_the_many(self, answer: Attention) -> float:
        """Of the error energy, where no element has more than `FEW_SIGMA`."""
        every = torch.arange(self.output.case.tokens)
        energy, truth = (self.output.energy(each, every, FEW_SIGMA) for each in (answer, self.output.want))
        return self.output.left(energy, truth, every)

    def among(self, table: Sequence[Counterfactual]) -> list[tuple[Explanation, Attention]]:
        """What single counterfactuals explain."""
        nothing = _Tried((), (), self.question, 1.0, 0.0)
        rounded = replace(nothing, question=with_rounded_q(self.question, self.output.profile))
        for cause in table:
            if cause.rounds and not self.output.small:
                continue
            if self.late:
                self.left_out += 1
                continue
            self.asked += 1
            if (best := self._best(cause, rounded if cause.rounds and cause.stored is None else nothing)) is not None:
                self.tried.append(best)
        self.tried.sort(key=lambda one: one.order)
        return self._judged(self.tried[:SURVIVORS])

    def together(self, table: Sequence[Counterfactual]) -> list[tuple[Explanation, Attention]]:
        """What two explain: each of the table changes the question that a promising one has changed."""
        found: list[_Tried] = []
        by_mended = sorted(self.tried, key=lambda one: one.mended, reverse=True)
        partners = list(dict.fromkeys((*self.tried[:PARTNERS], *by_mended[:PARTNERS])))
        for one in partners:
            for cause in table:
                if self.late or cause in one.causes or cause.rounds or one.causes[0].rounds:
                    continue
                pair = self._best(cause, one)
                if pair is not None and pair.left < GAINED * one.left:
                    found.append(pair)
        return self._judged(sorted(found, key=lambda pair: pair.order)[:SURVIVORS])

    def _best(self, cause: Counterfactual, before: _Tried) -> _Tried | None:
        """The best variant of one more cause on the sampled rows, or None where none promises anything."""
        best: _Tried | None = None
        for detail, question in cause.variants(before.question):
            causes = (*before.causes, cause)
            if (answer := self._answer(causes, question, self.tokens)) is None:
                continue
            energy = self.output.energy(answer, self.tokens)
            left = self.output.left(energy, self.truth, self.tokens)
            mended = float(((energy < MENDED * self.truth) & (self.truth > 0)).double().mean())
            one = _Tried(causes, (*before.details, detail), question, left, mended)
            if one.promises and (best is None or one.order < best.order):
                best = one
        return best

    def _answer(
        self, causes: tuple[Counterfactual, ...], question: Question, tokens: Tensor | None = None
    ) -> Attention | None:
        """The answer to some rows, or, with the sums, to all of them."""
        stored = [cause.stored for cause in causes if cause.stored is not None]
        if tokens is not None and not stored:
            return question.answer(tokens.tolist())
        answer: Attention | None = self.output.want if question is self.question else question.answer(sums=True)
        for change in stored:
            answer = None if answer is None else change(question, answer)
        return answer if answer is None or tokens is None else Attention(answer.out[tokens], answer.lse[tokens])

    def _judged(self, some: list[_Tried]) -> list[tuple[Explanation, Attention]]:
        """What each explains of the whole output: each sequence by it, or, where that is better, by the truth."""
        found: list[tuple[Explanation, Attention]] = []
        every = torch.arange(self.output.case.tokens)
        truth = self.output.energy(self.output.want, every)
        for one in some:
            if (answer := self._answer(one.causes, one.question)) is None:
                continue
            energy = self.output.energy(answer, every)
            needed = self.output.by_sequence(energy, every) < self.output.by_sequence(truth, every)
            chosen = mixed(answer, self.output.want, needed[self.output.sequence])
            left = self.output.left(energy, truth, every)
            fit = self.output.fit(chosen)
            more = left / self.declared
            rounds = all(cause.rounds for cause in one.causes) and more <= SIMULATED and fit.share >= LEAST_SIMULATED
            rounds = rounds and self._left_of_the_many(answer) <= SIMULATED
            whole = rounds or (fit.passes and more <= 1 - LEAST_TAKEN)
            sequences = tuple(needed.nonzero()[:, 0].tolist())
            share = fit.share if fit.passes and whole else min(fit.share, 0.999)
            found.append((Explanation(one.causes, one.details, share, fit.worse, left, sequences, whole), chosen))
        return found


def _grouped(some: list[Explanation], answers: dict[int, Attention], output: WrongOutput) -> Iterable[Explanation]:
    """Those that give the same answer are one, named by the likeliest."""
    groups: list[list[Explanation]] = []
    for each in some:
        alike = (group for group in groups if output.apart(answers[id(each)], answers[id(group[0])]) <= ALIKE)
        if (group := next(alike, None)) is None:
            groups.append([each])
        else:
            group.append(each)
    for group in groups:
        first, *others = sorted(group, key=lambda each: each.rank)
        yield replace(first, alike=tuple(others))
