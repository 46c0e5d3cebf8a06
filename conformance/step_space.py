"""The space of steps that do more than decode: a smaller one beside that of decodes, whose axes have other meanings.

What decodes have by themselves (drafts of every length, contexts at every edge) is covered there. A legal assignment is
made a case by `conformance.realize_step.case`; `conformance.realize_step.levels` goes back.
"""

from collections.abc import Iterator, Mapping
from functools import cache

from conformance.axes import (
    BOUND,
    CACHE,
    CAUSAL,
    DTYPE,
    LAYOUT,
    MOST_BYTES,
    PAGE_ORDER,
    Q_ROWS,
    REGIME,
    SCALE,
    SCORES,
    SINKS,
    TAIL_REGIMES,
    row_bytes,
)
from conformance.block_tables import FIRST_HIGH_PAGE
from conformance.contexts import THRESHOLD as SPLIT_ABOVE
from conformance.covering import Row
from conformance.realize import Levels
from conformance.space import Axis, Constraint, Space, budget, rule

STEP = Axis("step", ("extend", "prefill", "mixed", "decode+extend", "decode+prefill"))
THRESHOLD = Axis("threshold", ("8", "1", "17"))
NEW = Axis("new tokens", ("20", "18", "63", "64", "65", "128", "129", "200"))
CONTEXT = Axis("context", ("100", "1", "16", "63", "64", "65", "257", "512", "1100"))
CHUNK = Axis("chunk", ("none", "64", "100", "16"))
RATIO = Axis("ratio", ("2", "1", "4", "8", "3", "16"))
KV_HEADS = Axis("KV heads", ("2", "1", "3", "8"))
HEAD_DIM = Axis("head dim", ("64", "128", "32", "80", "96", "192", "256", "512"))
PAGE = Axis("page", ("16", "32", "64", "1", "48", "256"))
WINDOW = Axis("window", ("none", "left", "short", "wide", "right", "both"))
DESCALES = Axis("descales", ("tensor", "head", "seq"))
EACH = Axis("of each kind", ("1", "2", "3"))
Q_DTYPE = Axis("q dtype", ("none", "small"))
IDLE = Axis("beside", ("none", "idle", "padded"))

AXES = (STEP, CAUSAL, DTYPE, THRESHOLD, NEW, CONTEXT, CHUNK, RATIO, KV_HEADS, HEAD_DIM, PAGE, LAYOUT, PAGE_ORDER,
        WINDOW, SCORES, SINKS, CACHE, Q_DTYPE, DESCALES, EACH, IDLE, SCALE, BOUND, Q_ROWS, REGIME)  # fmt: skip

WITH_DECODES = ("mixed", "decode+extend", "decode+prefill")
WITH_EXTENDS = ("extend", "mixed", "decode+extend")
WITHOUT_EXTENDS = ("prefill", "decode+prefill")

REACH = {
    "none": (-1, -1),
    "left": (63, -1),
    "short": (5, -1),
    "wide": (300, -1),
    "right": (-1, 5),
    "both": (63, 10),
}
"""Keys on either side of a query that a window reaches: within a tile, within the new tokens, beyond most contexts."""

IN_PARTS = ("none", "right")
"""Windows that leave a query all of its context, so that an extend's is attended apart."""

DECODES_FAIL = ("shifted", "poison.tails")
"""Regimes in which causal decodes are known to fail where a bound of the keys has them split."""

REFUSED = (
    ("softcap in an extend or a prefill is CK's alone", {"scores": "softcap"}),
    ("float8 queries of an extend or a prefill have no descale", {"q dtype": "small"}),
    ("a window's right side is CK's alone", {"causal": "noncausal", "window": "right"}),
    ("a window's right side is CK's alone", {"causal": "noncausal", "window": "both"}),
)
"""What AITER's Triton kernels refuse, whatever else a step has: levels, and why."""

MOST_WORK = 2**26
"""Multiplications of the product of q and K."""

CONTEXT_WITHOUT_EXTENDS = "100"
"""Of the decodes."""


def _rules() -> Iterator[Constraint]:
    yield rule(
        "a context that is taken in chunks is an extend's, and no window hides it",
        (STEP, WINDOW, CHUNK),
        lambda step, window, chunk: chunk == "none" or (step in WITH_EXTENDS and window in IN_PARTS),
    )
    yield rule(
        "a chunk that holds the whole context is none",
        (CONTEXT, CHUNK),
        lambda context, chunk: chunk == "none" or int(chunk) < int(context),
    )
    yield rule(
        "without extends there are the decodes' contexts alone, whose edges the space of decodes has",
        (STEP, CONTEXT),
        lambda _, context: context == CONTEXT_WITHOUT_EXTENDS,
        where={"step": WITHOUT_EXTENDS},
    )
    yield rule("prefills alone read no cache", (STEP, CACHE), lambda _, cache: cache == "none",
               where={"step": ["prefill"]})  # fmt: skip
    yield rule(
        "ALiBi cannot be told to a part of the keys",
        (STEP, WINDOW, SCORES),
        lambda step, window, scores: scores != "alibi" or step in WITHOUT_EXTENDS or window != "none",
    )
    yield rule("non-causal kernels have no ALiBi", (CAUSAL, SCORES), lambda *levels: levels != ("noncausal", "alibi"))
    yield rule(
        "a causal query sees nothing to its right: a right side alone is no window",
        (CAUSAL, WINDOW),
        lambda *levels: levels != ("causal", "right"),
    )
    for axis in (SINKS, CACHE):
        yield rule(
            "non-causal decodes have no sinks and no smaller cache: the space of decodes lists those refusals",
            (STEP, CAUSAL, axis),
            lambda step, causal, level: level == "none" or causal == "causal" or step not in WITH_DECODES,
        )
    yield rule(
        "descales differ where a smaller cache has several heads, and unified attention, which decodes, reads one",
        (STEP, CACHE, KV_HEADS, DESCALES),
        lambda step, cache, heads, descales: (
            descales == "tensor"
            or (cache != "none" and step not in WITH_DECODES and (heads != "1" or descales == "seq"))
        ),
    )
    yield rule(
        "descales of a sequence's own need several, which share no page",
        (EACH, PAGE_ORDER, DESCALES),
        lambda each, order, descales: descales != "seq" or (each != "1" and order != "shared"),
    )
    yield rule(
        "queries are as small as a smaller cache: the space of decodes lists other refusals",
        (CACHE, Q_DTYPE),
        lambda cache, q_dtype: q_dtype == "none" or cache != "none",
    )
    yield rule(
        "pages are shared by two sequences of a kind that fill one",
        (EACH, NEW, PAGE, PAGE_ORDER),
        lambda each, new, page, _: each != "1" and int(new) >= int(page),
        where={"page order": ["shared"]},
    )
    yield budget(
        "page ids above 65,535 take caches of at most 128 MiB",
        2 * MOST_BYTES,
        [
            ((PAGE_ORDER,), lambda order: FIRST_HIGH_PAGE if order == "high" else 0),
            ((PAGE,), int),
            ((LAYOUT, KV_HEADS, HEAD_DIM), row_bytes),
        ],
    )
    yield rule(
        "a sequence without queries, or without keys, stands among decodes",
        (STEP, IDLE),
        lambda step, idle: idle == "none" or step in WITH_DECODES,
    )
    yield from _what_the_space_of_decodes_has()
    yield rule(
        "the tail of a last page needs a sequence that does not fill it",
        (STEP, NEW, CONTEXT, PAGE, REGIME),
        lambda step, new, context, page, _: (int(new) + int(context) * (step in WITH_EXTENDS)) % int(page) > 0,
        where={"regime": TAIL_REGIMES},
    )
    yield rule(
        "the oracle takes at most 2^26 multiplications for the scores",
        (NEW, CONTEXT, RATIO, KV_HEADS, HEAD_DIM, EACH),
        lambda new, context, ratio, heads, dim, each: int(new) * (int(new) + int(context)) * int(ratio) * int(heads)
        * int(dim) * int(each) <= MOST_WORK,
    )  # fmt: skip


def _what_the_space_of_decodes_has() -> Iterator[Constraint]:
    """A causal decode that is known to fail (docs/findings.md) hides what the rest of a step shows."""
    yield rule(
        "a bound of the keys is no concern of decodes that fail with one",
        (STEP, CAUSAL, BOUND, REGIME, IDLE),
        lambda step, *_: step not in WITH_DECODES,
        where={"causal": ["causal"], "bound": ["bounded"], "beside": ["padded"]},
    )
    yield rule(
        "a bound of the keys goes with regimes in which decodes that are split are right",
        (STEP, CAUSAL, BOUND, REGIME),
        lambda step, *_: step not in WITH_DECODES,
        where={"causal": ["causal"], "bound": ["bounded"], "regime": DECODES_FAIL},
    )
    yield rule(
        "single tokens beside a sequence without a query are refused where they are causal: smoke lists them",
        (STEP, CAUSAL, THRESHOLD, IDLE),
        lambda step, _, threshold, __: step not in WITH_DECODES or threshold != "1",
        where={"causal": ["causal"], "beside": ["idle"]},
    )
    yield rule(
        "a row of padding is right in a batch that is not split",
        (STEP, CAUSAL, CONTEXT, IDLE),
        lambda step, _, context, __: step not in WITH_DECODES or int(context) < SPLIT_ABOVE,
        where={"causal": ["causal"], "beside": ["padded"]},
    )


@cache
def space() -> Space:
    """The axes and all constraints; made once."""
    return Space(AXES, _rules())


@cache
def served() -> Space:
    """The same without what AITER's Triton kernels refuse in any extend or prefill, and CK's may serve."""
    by_name = {axis.name: axis for axis in AXES}
    return Space(AXES, [*_rules(), *(_without(why, part, by_name) for why, part in REFUSED)])


def _without(why: str, part: Levels, by_name: Mapping[str, Axis]) -> Constraint:
    return rule(why, [by_name[name] for name in part], lambda *levels: levels != tuple(part.values()))


def may_be_served(row: Row) -> bool:
    """Has a case, by what it covers, nothing of what `served` leaves out?"""
    return not any(all(level in row[name] for name, level in part.items()) for _, part in REFUSED)
