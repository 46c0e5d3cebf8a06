"""Hypothesis draws legal cases: any numbers, not only the levels of the axes, and small enough for the interpreter.

What is drawn first, and lowest, is what Hypothesis shrinks to: one sequence of one query, one head, random inputs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st

from conformance.axes import HEAD_DIM, KEY_BOUND
from conformance.block_tables import FIRST_HIGH_PAGE
from conformance.case import LAYOUTS, REGIMES, BadCase, Case
from conformance.contexts import THRESHOLD, TILE
from conformance.cost import seconds
from conformance.layouts import page_stride
from conformance.rounding import CACHE_DTYPES, DTYPES
from conformance.steps import step_of

T = TypeVar("T")

MOST_SEQUENCES, MOST_QUERIES, MOST_KEYS = 8, 32, 1_200

DEAR = 2.0
"""Estimated seconds on the interpreter above which a case is not worth its time: heads are drawn so that it is less."""

MOST_CACHE_BYTES = 2**26
"""Of K or V, where page ids are above 65,535."""

PAGE_SIZES = st.sampled_from((16, 1, 8, 32, 48, 64, 128, 256, 544, 1024)) | st.integers(1, 1024)
HEAD_DIMS = st.integers(2, 64).map(lambda n: 8 * n) | st.sampled_from(sorted(map(int, HEAD_DIM.levels)))
RATIOS = (*range(1, 9), 12, 16, 32, 64)
KV_HEADS = range(1, 9)
SCALES = (0.2, 0.05, 1.0)
THRESHOLDS = (1, 4, 8, 16)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A legal case. A window, features or an unusual page order are in some of them."""
    page_size = draw(PAGE_SIZES)
    query_lens = draw(_query_lens())
    causal = draw(st.booleans())
    case = Case(
        causal=causal,
        dtype=draw(st.sampled_from(DTYPES)),
        query_lens=query_lens,
        seq_lens=tuple(draw(_keys(m, page_size)) for m in query_lens),
        q_heads=1,
        kv_heads=1,
        head_dim=draw(HEAD_DIMS),
        page_size=page_size,
        layout=draw(st.sampled_from(LAYOUTS)),
        regime=draw(st.sampled_from(REGIMES)),
        window=draw(st.sampled_from(((-1, -1), (-1, -1))) | st.tuples(_SIDE, _SIDE)),
        softcap=draw(_seldom(30.0, 20.0, 50.0, otherwise=0.0)) if causal else 0.0,
        alibi=draw(_seldom(True, otherwise=False)) if causal else False,
        sinks=draw(_seldom(True, otherwise=False)) if causal else False,
        table_width=draw(st.sampled_from((1, 1, 1, 2, 3, 8))),
        cache_dtype=draw(_seldom(*CACHE_DTYPES, otherwise="")) if causal else "",
        max_keys=draw(_seldom(KEY_BOUND, otherwise=0)) if causal else 0,
        scale=draw(_seldom(*SCALES, otherwise=0.0)),
        fused_q=draw(_seldom(True, otherwise=False)),
    )
    ratio = draw(st.sampled_from(_affordable_heads(case, [(ratio, 1) for ratio in RATIOS])))[0]
    q_heads, kv_heads = draw(st.sampled_from(_affordable_heads(case, [(n * ratio, n) for n in KV_HEADS])))
    case = replace(case, q_heads=q_heads, kv_heads=kv_heads, q_dtype=draw(_seldom(*CACHE_DTYPES, otherwise="")))
    if case.cache_dtype and kv_heads > 1:
        case = replace(case, per_head_descales=draw(st.booleans()))
    if draw(_seldom(True, otherwise=False)):
        prefills = draw(st.lists(st.booleans(), min_size=case.batch, max_size=case.batch))
        chunk = draw(st.sampled_from((0, 64, 16, 100)))
        case = step_of(case, draw(st.sampled_from(THRESHOLDS)), prefills=prefills, chunk=chunk)
    case = replace(case, page_order=draw(st.sampled_from(_page_orders(case))))
    if case.cache_dtype and case.batch > 1 and not case.shared_pages:
        case = replace(case, per_sequence_descales=draw(_seldom(True, otherwise=False)))
    return case


def _seldom(*some: T, otherwise: T) -> st.SearchStrategy[T]:
    """One of some in a third of the cases."""
    return st.sampled_from((*[otherwise] * (2 * len(some)), *some))


def _affordable_heads(case: Case, heads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Query and KV heads that keep the case below DEAR, or the fewest."""
    cheap = [(q, kv) for q, kv in heads if seconds(replace(case, q_heads=q, kv_heads=kv)) <= DEAR]
    return cheap or [*heads[:1]]


_SIDE = st.integers(-1, 70)


@st.composite
def _query_lens(draw: st.DrawFn) -> tuple[int, ...]:
    length = st.integers(1, MOST_QUERIES)
    if draw(st.booleans()):
        lens = draw(st.lists(length | st.just(0), min_size=1, max_size=MOST_SEQUENCES).filter(any))
        return tuple(lens)
    return (draw(length),) * draw(st.integers(1, MOST_SEQUENCES))


@st.composite
def _keys(draw: st.DrawFn, queries: int, page_size: int) -> int:
    """Keys of a sequence: one near an edge, or any number; seldom fewer than its queries."""
    unit = draw(st.sampled_from((1, page_size, TILE, THRESHOLD)))
    if unit == 1:
        keys = draw(st.integers(0, 300) | st.integers(0, MOST_KEYS))
    else:
        keys = unit * draw(st.integers(0, max(2, MOST_KEYS // unit))) + draw(st.sampled_from((0, 1, -1)))
    fewer = draw(st.sampled_from((False, False, False, False, False, True)))
    return max(keys, 0 if fewer else queries)


def _page_orders(case: Case) -> list[str]:
    """Those that the case allows, the plainest first."""
    orders = ["shuffled", "shuffled", "ascending"]
    stride = page_stride(case.layout, case.page_size, case.kv_heads, case.head_dim)
    if 2 * stride * FIRST_HIGH_PAGE <= MOST_CACHE_BYTES:
        orders.append("high")
    try:
        replace(case, page_order="shared")
    except BadCase:
        return orders
    return [*orders, "shared"]
