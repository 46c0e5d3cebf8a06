"""A right answer stored wrongly: rows or columns lost, moved, rounded, never written; an lse in other units."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from conformance.triage.causes.precision import truncated
from conformance.triage.counterfactuals import Counterfactual
from conformance.triage.question import Question
from reference import Attention, RoundingSums


def _moved(of: Callable[[Tensor], Tensor]) -> Callable[[Question, Attention], Attention]:
    """Elements [T, Hq, D] in other places, and what their rounding scales with."""

    def stored(_: Question, exact: Attention) -> Attention:
        if exact.sums is None:
            return replace(exact, out=of(exact.out))
        moved = {f.name: of(x) if (x := getattr(exact.sums, f.name)).dim() == 3 else x for f in fields(RoundingSums)}
        return replace(exact, out=of(exact.out), sums=RoundingSums(**moved))

    return stored


def _out(of: Callable[[Question, Attention], Tensor | None]) -> Callable[[Question, Attention], Attention | None]:
    def stored(question: Question, exact: Attention) -> Attention | None:
        out = of(question, exact)
        return None if out is None else replace(exact, out=out)

    return stored


def _lse(of: Callable[[Question, Attention], Tensor]) -> Callable[[Question, Attention], Attention | None]:
    return lambda question, exact: replace(exact, lse=of(question, exact))


def _rows_past(question: Question, exact: Attention, most: int) -> Tensor | None:
    if max(question.case.query_lens) <= most:
        return None
    out = exact.out.clone()
    for start, m in zip(question.case.query_starts, question.case.query_lens, strict=False):
        out[start + most : start + m] = 0
    return out


def _dims_past(question: Question, exact: Attention, most: int) -> Tensor | None:
    if question.case.head_dim <= most:
        return None
    out = exact.out.clone()
    out[..., most:] = 0
    return out


def _without_a_key(fill: float) -> Callable[[Question, Attention], Tensor | None]:
    """Rows that see no key hold something else than 0."""

    def out(question: Question, exact: Attention) -> Tensor | None:
        blind = exact.lse == -math.inf
        return torch.where(blind[..., None], fill, exact.out) if bool(blind.any()) else None

    return out


def _unwritten(out: Tensor, rows: list[int]) -> Tensor:
    """A buffer that is handed out holds NaN where nothing was written (`conformance.execute`)."""
    out = out.clone()
    out[rows] = math.nan
    return out


def _last_rows(question: Question) -> list[int]:
    return [end - 1 for start, end in pairwise(question.case.query_starts) if end > start]


def _maximum(question: Question, _: Attention) -> Tensor:
    """The largest score of each row, [T, Hq]."""
    return replace(question, softmax=_row_maximum).answer().lse


def _partly_in_base_2(question: Question, exact: Attention) -> Tensor:
    top = _maximum(question, exact)
    return top / math.log(2) + (exact.lse - top)


def _row_maximum(scores: Tensor, seen: Tensor, sink: Tensor | None, count: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = scores.masked_fill(~seen, -math.inf)
    top = scores.amax(-1) if scores.shape[-1] else scores.new_full(scores.shape[:2], -math.inf)
    return torch.zeros_like(scores), top if sink is None else top.maximum(sink[:, None])


TABLE = (
    *(
        Counterfactual(
            name=f"queries past {most} lost",
            says=f"only the first {most} queries of a sequence were answered, and the others 0",
            applies=lambda question, most=most: max(question.case.query_lens) > most,
            stored=_out(lambda question, exact, most=most: _rows_past(question, exact, most)),
        )
        for most in (1, 8, 16, 32, 64)
    ),
    *(
        Counterfactual(
            name=f"dims past {most} lost",
            says=f"only the first {most} dims were stored, and the others 0",
            applies=lambda question, most=most: question.case.head_dim > most,
            stored=_out(lambda question, exact, most=most: _dims_past(question, exact, most)),
        )
        for most in (64, 128)
    ),
    Counterfactual(
        name="output rotated by one dim",
        says="each element lay one dim too far right",
        stored=_moved(lambda x: x.roll(1, -1)),
    ),
    Counterfactual(
        name="output rotated back by one dim",
        says="each element lay one dim too far left",
        stored=_moved(lambda x: x.roll(-1, -1)),
    ),
    Counterfactual(
        name="output by head and query swapped",
        says="the output were stored by head, then by query",
        applies=lambda question: question.case.tokens > 1 and question.case.q_heads > 1,
        stored=_moved(lambda x: x.transpose(0, 1).reshape(x.shape)),
    ),
    Counterfactual(name="output 0", says="nothing but 0 were stored", stored=_out(lambda _, exact: 0 * exact.out)),
    Counterfactual(
        name="row without a key NaN",
        says="a row that sees no key were 0 divided by 0",
        stored=_out(_without_a_key(math.nan)),
        rank=-1,
    ),
    Counterfactual(
        name="last row never written",
        says="the last query were never written",
        stored=_out(lambda _, exact: _unwritten(exact.out, [len(exact.out) - 1])),
        rank=-1,
    ),
    Counterfactual(
        name="last row of each sequence never written",
        says="the last query of each sequence were never written",
        applies=lambda question: question.case.batch > 1,
        stored=_out(lambda question, exact: _unwritten(exact.out, _last_rows(question))),
        rank=-1,
    ),
    Counterfactual(
        name="output through bf16",
        says="the output were rounded to bf16 on its way",
        applies=lambda question: question.case.dtype != "bf16",
        rounds=True,
        stored=_out(lambda _, exact: exact.out.bfloat16().double()),
    ),
    Counterfactual(
        name="output truncated",
        says="the output were cut off to bf16, not rounded",
        stored=_out(lambda _, exact: truncated(exact.out)),
        rounds=True,
    ),
    Counterfactual(
        name="lse in base 2",
        says="the lse were a logarithm of base 2",
        stored=_lse(lambda _, exact: exact.lse / math.log(2)),
    ),
    Counterfactual(
        name="lse partly in base 2",
        says="the lse were the maximum of scores in base 2 and a logarithm",
        stored=_lse(_partly_in_base_2),
        rank=1,
    ),
    Counterfactual(
        name="lse without the maximum",
        says="the lse were the logarithm of the denominator, without the row maximum",
        stored=_lse(lambda question, exact: exact.lse - _maximum(question, exact)),
    ),
    Counterfactual(
        name="lse without the denominator",
        says="the lse were the row maximum, without the denominator",
        stored=_lse(_maximum),
    ),
    Counterfactual(
        name="lse of a row without a key 0",
        says="the lse of a row that sees no key were 0",
        stored=_lse(lambda _, exact: exact.lse.nan_to_num(neginf=0.0)),
    ),
)
