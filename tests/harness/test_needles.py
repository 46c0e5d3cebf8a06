"""Needles: every place where kernels go wrong has one, the right one takes the weight, and its value names it."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs, make, queries
from conformance.manifest import cases
from tests.harness.pages import Rows

SMOKE = cases("smoke")


def ids(case: Case) -> str:
    return case.id


NEEDLES = [case for case in SMOKE if case.regime == "needle"] + [
    Case.parse(f"decode-{rest}-needle")
    for rest in (
        "noncausal-bf16-b3-q8-h8:2-d64-p16-kv200+77+3-pages.shared-packed",
        "causal-bf16-b2-q8-h8:2-d64-p16-kv200+77-cache.e4m3fn-sliced",
        "noncausal-fp16-b2-q17-h16:2-d64-p16-kv1000+513-table8x-padded",
    )
]


def readable_scores(case: Case, made: Inputs, b: int) -> Tensor:
    """Scores of a sequence's queries with every row on its pages, stale rows included: float64 [m, Hq, rows]."""
    table = made.block_table[b, : case.pages[b]].long()
    keys = made.k_cache[table].flatten(0, 1).double().repeat_interleave(case.gqa_ratio, 1)  # [rows, Hq, D]
    if made.k_descale is not None:
        keys *= made.k_descale[b].double().repeat_interleave(case.gqa_ratio)[:, None]
    q = queries(case, made)[case.query_starts[b] : case.query_starts[b + 1]].double()
    return torch.einsum("mhd,rhd->mhr", q, keys) * made.scale


def seen_by(case: Case, b: int, i: int, j: int) -> bool:
    """NUMERICS section 1, spelt out."""
    m, n = case.query_lens[b], case.seq_lens[b]
    left, right = case.window
    stand = n - m + i
    return (
        0 <= j < n
        and (not case.causal or j <= stand)
        and (left < 0 or j >= stand - left)
        and (right < 0 or j <= stand + right)
    )


@dataclass(frozen=True)
class Pointing:
    """Where one (query, head) row points: sequence, query, position; may it see it, and with what exact weight."""

    b: int
    i: int
    j: int
    visible: bool
    weight: float


def pointing(case: Case) -> list[Pointing]:
    """Where the rows of a needle case point, found from the scores alone."""
    made, found = make(case), []
    for b, (m, n) in enumerate(zip(case.query_lens, case.seq_lens, strict=True)):
        if not m or not n:
            continue
        scores = readable_scores(case, made, b)
        for i in range(m):
            seen = torch.tensor([seen_by(case, b, i, j) for j in range(scores.shape[-1])])
            weights = scores[i].masked_fill(~seen, -math.inf).softmax(-1)
            for head in range(case.q_heads):
                j = int(scores[i, head].argmax())
                found.append(Pointing(b, i, j, bool(seen[j]), float(weights[head, j])))
    return found


@pytest.mark.parametrize("case", NEEDLES, ids=ids)
def test_a_visible_needle_takes_nearly_all_the_weight(case: Case) -> None:
    weights = [row.weight for row in pointing(case) if row.visible]
    assert weights
    assert min(weights) > (0.98 if case.q_dtype else 0.99)  # queries in float8 lose some of their direction


def suspicious(case: Case, b: int, i: int) -> dict[str, int]:
    """The positions that NUMERICS section 6 names, for one query."""
    m, n = case.query_lens[b], case.seq_lens[b]
    left, right = case.window
    stand, page = n - m + i, case.page_size
    places = {
        "first key": 0,
        "last key": n - 1,
        "past the end": n,
        "first row of the second page": page,
        "last row of the first page": page - 1,
        "first key of the last page": (n - 1) // page * page,
        "diagonal": stand,
        "past the diagonal": stand + 1,
    }
    if left >= 0:
        places |= {"left edge": stand - left, "past the left edge": stand - left - 1}
    if right >= 0:
        places |= {"right edge": stand + right, "past the right edge": stand + right + 1}
    readable = case.pages[b] * page
    return {what: place for what, place in places.items() if 0 <= place < readable}


NEEDLES_EVERYWHERE = [
    "decode-noncausal-bf16-b2-q16-h8:2-d128-p16-kv100+260-packed-needle",
    "decode-causal-bf16-b2-q16-h8:2-d128-p16-kv100+260-packed-needle",
    "decode-noncausal-fp16-b2-q8-h4:2-d64-p16-kv150+40-w20:4-packed-needle",
    "decode-causal-bf16-b2-q8-h4:2-d64-p16-kv150+40-w32:inf-packed-needle",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv150+40-winf:3-packed-needle",
    "decode-noncausal-fp16-b2-q8-h4:2-d64-p64-kv63+65-contiguous-needle",
]


def only_one(places: dict[str, int]) -> dict[str, int]:
    """Without the positions that are suspicious for two reasons: a needle there proves neither."""
    return {what: place for what, place in places.items() if list(places.values()).count(place) == 1}


@pytest.mark.parametrize("name", NEEDLES_EVERYWHERE)
def test_needles_lie_wherever_kernels_go_wrong(name: str) -> None:
    case = Case.parse(name)
    rows = pointing(case)
    places = {(b, i): only_one(suspicious(case, b, i)) for b in range(case.batch) for i in range(case.query_lens[b])}
    needed = {what for here in places.values() for what in here}
    met = {what for row in rows for what, place in places[row.b, row.i].items() if place == row.j}
    assert met == needed
    unseen = [row for row in rows if not row.visible]
    met = {what for row in unseen for what, place in places[row.b, row.i].items() if place == row.j}
    hidden = {what for what in needed if what.startswith("past the") and (case.causal or "diagonal" not in what)}
    assert met >= hidden


@pytest.mark.parametrize("case", NEEDLES, ids=ids)
def test_every_sequence_has_a_needle_at_its_last_key(case: Case) -> None:
    """However few its rows are; the last query sees it unless a window to the right is cut off before it."""
    last = {b for b in range(case.batch) if case.query_lens[b] and case.seq_lens[b]}
    assert {row.b for row in pointing(case) if row.j == case.seq_lens[row.b] - 1 and row.visible} == last


@pytest.mark.parametrize("case", NEEDLES, ids=ids)
def test_the_values_under_needles_are_distinct(case: Case) -> None:
    """Or the output would not name the key that was read."""
    made = make(case)
    rows = Rows.of(case, made)
    values = made.v_cache.float()[rows.keys | rows.tails]  # [rows, Hkv, D]
    assert len(values.flatten(1).unique(dim=0)) == len(values)
