"""Hypothesis draws legal cases: any numbers, not only the levels of the axes, and small enough for the interpreter.

What is drawn first, and lowest, is what Hypothesis shrinks to: one sequence of one query, one head, random inputs.
"""

from dataclasses import replace

from hypothesis import strategies as st

from conformance.block_tables import FIRST_HIGH_PAGE
from conformance.case import LAYOUTS, REGIMES, BadCase, Case
from conformance.contexts import THRESHOLD, TILE
from conformance.layouts import page_stride
from conformance.rounding import CACHE_DTYPES, DTYPES

MOST_SEQUENCES, MOST_QUERIES, MOST_KEYS = 8, 32, 1_200

MOST_CACHE_BYTES = 2**26
"""Of K or V, where page ids are above 65,535."""

PAGE_SIZES = st.sampled_from((16, 1, 8, 32, 48, 64, 128, 256, 544, 1024)) | st.integers(1, 1024)
RATIOS = st.integers(1, 8) | st.sampled_from((12, 16, 32, 64))
FEATURES = ("none", "none", "none", "softcap", "alibi", "sinks", *CACHE_DTYPES)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A legal case. A window, a feature or an unusual page order is in some of them."""
    page_size = draw(PAGE_SIZES)
    query_lens = draw(_query_lens())
    causal = draw(st.booleans())
    feature = draw(st.sampled_from(FEATURES)) if causal else "none"
    kv_heads = draw(st.integers(1, 8))
    case = Case(
        causal=causal,
        dtype=draw(st.sampled_from(DTYPES)),
        query_lens=query_lens,
        seq_lens=tuple(draw(_keys(m, page_size)) for m in query_lens),
        q_heads=kv_heads * draw(RATIOS),
        kv_heads=kv_heads,
        head_dim=8 * draw(st.integers(2, 64)),
        page_size=page_size,
        layout=draw(st.sampled_from(LAYOUTS)),
        regime=draw(st.sampled_from(REGIMES)),
        window=draw(st.sampled_from(((-1, -1), (-1, -1))) | st.tuples(_SIDE, _SIDE)),
        softcap=draw(st.sampled_from((30.0, 20.0, 50.0))) if feature == "softcap" else 0.0,
        alibi=feature == "alibi",
        sinks=feature == "sinks",
        table_width=draw(st.sampled_from((1, 1, 1, 2, 3, 8))),
        cache_dtype=feature if feature in CACHE_DTYPES else "",
    )
    return replace(case, page_order=draw(st.sampled_from(_page_orders(case))))


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
    """Keys of a sequence: any number, or one near an edge; seldom fewer than its queries."""
    unit = draw(st.sampled_from((1, page_size, TILE, THRESHOLD)))
    keys = unit * draw(st.integers(0, max(2, min(MOST_KEYS // unit, 300)))) + draw(st.sampled_from((0, 1, -1)))
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
