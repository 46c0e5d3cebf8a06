"""What a wrong output looks like: which rows and columns, and how error goes with pages, tiles, splits and keys.

Rows are asked one property after the other whether it tells the wrong ones from the right: where in the keys their
weight lies, how long their sequence is, which query and which head they are. A property that does is stated as a rule
("from key 512 on"), the simplest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.case import Case
from conformance.failure import among, where
from conformance.triage.output import WrongOutput
from conformance.triage.question import Question

SINGLE_KEY = 0.99
"""A row with so much of its weight on one key is about that key."""

LEAST_TOLD = 0.98
"""A rule tells so many of the rows rightly at least."""

UNITS = (512, 256, 128, 64, 32, 16)
"""A place in the keys is stated as a multiple of these, the largest first, if it is one."""


@dataclass(frozen=True)
class Anatomy:
    """How a wrong output is wrong, in words that need no knowledge of the kernel."""

    elements: str
    rows: str
    columns: str
    rules: tuple[str, ...]

    def lines(self) -> Iterator[tuple[str, str]]:
        """Words and what they are about."""
        yield "share", self.elements
        yield "where", self.rows
        if self.columns:
            yield "columns", self.columns
        for rule in self.rules:
            yield "only", rule


def anatomy(output: WrongOutput, question: Question) -> Anatomy:
    """Of a wrong output, and the question that was asked."""
    wrong = output.wrong if bool(output.wrong.any()) or output.wrong_lse is None else output.wrong_lse[..., None]
    rows = wrong.any(-1)
    if not bool(rows.any()):
        return Anatomy(
            _elements(output, wrong), "no row by itself: the case has more error than rounding makes", "", ()
        )
    dims = set(wrong.any(0).any(0).nonzero()[:, 0].tolist())
    case = output.case
    columns = among("dim", dims, set(range(case.head_dim)), case.head_dim) if wrong.shape[-1] > 1 else "the lse alone"
    return Anatomy(_elements(output, wrong), where(case, rows), columns, tuple(_rules(case, question, rows)))


def _elements(output: WrongOutput, wrong: Tensor) -> str:
    count, share = int(wrong.sum()), float(wrong.double().mean())
    said = f"{count} of {wrong.numel()} elements ({share:.1%})"
    nan, infinite = int(output.out.isnan().sum()), int(output.out.isinf().sum())
    zero = int(((output.out == 0) & (output.want.out != 0)).sum())
    for what, number in (("NaN", nan), ("infinite", infinite), ("0 and should not be", zero)):
        said += f", {number} of them {what}" if number else ""
    return said


def _rules(case: Case, question: Question, wrong: Tensor) -> Iterator[str]:
    """What tells wrong rows [T, Hq] from right ones: at most one rule of each kind."""
    if bool(wrong.all()) or not bool(wrong.any()):
        return
    sequence = torch.arange(case.batch).repeat_interleave(torch.tensor(case.query_lens))
    keys = torch.tensor(case.seq_lens)[sequence]
    starts = torch.tensor(case.query_starts)
    query = torch.arange(case.tokens) - starts[sequence]
    of_token = torch.ones_like(wrong, dtype=torch.int64)
    yield from _told("sequences of {} keys", keys[:, None] * of_token, wrong)
    if not _splits(keys[:, None] * of_token, wrong):
        yield from _told("queries numbered {}", query[:, None] * of_token, wrong, unit_of_one=True)
        yield from _told(
            "query heads numbered {}", torch.arange(case.q_heads)[None] * of_token, wrong, unit_of_one=True
        )
    page = (keys % case.page_size != 0)[:, None].expand_as(wrong)
    if _agree(page, wrong):
        yield "sequences whose last page is not full"
    blind, place = _places(case, question)
    if bool(blind.any()) and _agree(blind, wrong):
        yield "rows that see no key"
    about = place >= 0
    if bool(about.any()):
        yield from _about_keys(case, place, wrong, about)


def _about_keys(case: Case, place: Tensor, wrong: Tensor, about: Tensor) -> Iterator[str]:
    """Rules on the key that a row is about, [T, Hq], where it is about one."""
    place, wrong = place[about], wrong[about]
    if bool(wrong.all()) or not bool(wrong.any()):
        return
    yield from _told("rows about keys numbered {}", place, wrong)
    for name, size in (("page", case.page_size), ("tile of 64 keys", 64)):
        if size > 1:
            for which, holds in (("first", place % size == 0), ("last", place % size == size - 1)):
                if _agree(holds, wrong):
                    yield f"rows about the {which} key of a {name}"


def _places(case: Case, question: Question) -> tuple[Tensor, Tensor]:
    """Bool [T, Hq], rows that see no key; int64 [T, Hq], the key that has most of a row's weight, or -1."""
    place = torch.full((case.tokens, case.q_heads), -1)
    blind = torch.zeros(case.tokens, case.q_heads, dtype=torch.bool)
    for b, m in enumerate(case.query_lens):
        if not m:
            continue
        weights = question.weights(b, torch.arange(m))  # [Hq, m, N]
        rows = slice(case.query_starts[b], case.query_starts[b] + m)
        if not weights.shape[-1]:
            blind[rows] = True
            continue
        most = weights.max(-1)
        place[rows] = torch.where(most.values >= SINGLE_KEY, most.indices, -1).T
        blind[rows] = (weights.sum(-1) == 0).T
    return blind, place


def _told(words: str, property_: Tensor, wrong: Tensor, *, unit_of_one: bool = False) -> Iterator[str]:
    """The rule that wrong rows are those with a property from some number on, or below it, if there is one."""
    if (found := _splits(property_, wrong)) is None:
        return
    above, low, high = found
    # Any number above the one and up to the other is the cut: a multiple of what kernels cut at, if there is one.
    round_ones = (high // unit * unit for unit in (() if unit_of_one else UNITS))
    cut = next((at for at in round_ones if low < at), high)
    yield words.format(f"{cut} and more" if above else f"less than {cut}")


def _splits(property_: Tensor, wrong: Tensor) -> tuple[bool, int, int] | None:
    """Whether wrong rows lie above a cut, the largest number below it, and the smallest above; None without a cut."""
    numbers = property_.flatten().unique()
    best: tuple[float, bool, int, int] | None = None
    for low, high in zip(numbers[:-1].tolist(), numbers[1:].tolist(), strict=True):
        over = property_ >= high
        for above, holds in ((True, over), (False, ~over)):
            told = float((holds == wrong).double().mean())
            if best is None or told > best[0]:
                best = (told, above, int(low), int(high))
    return best[1:] if best is not None and best[0] >= LEAST_TOLD else None


def _agree(holds: Tensor, wrong: Tensor) -> bool:
    """Does one tell the other, and neither hold of all or none?"""
    return bool(holds.any()) and not bool(holds.all()) and float((holds == wrong).double().mean()) >= LEAST_TOLD


def together(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Lines as a failure has them."""
    return [f"  {word:<7} {said}" for word, said in pairs]
