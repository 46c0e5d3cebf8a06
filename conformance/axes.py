"""The case space: axes with named levels, and the constraints that say why a combination of levels is no case.

A legal assignment is made a case by `conformance.realize.case`; `conformance.realize.levels` goes back.
"""

from collections.abc import Iterator
from functools import cache

from conformance.block_tables import FIRST_HIGH_PAGE
from conformance.case import LAYOUTS, REGIMES
from conformance.contexts import CONTEXTS, lengths
from conformance.layouts import page_stride
from conformance.rounding import DTYPES
from conformance.space import Axis, Constraint, Space, budget, rule

RAGGED = ("one draft", "mixed", "absent")
"""Query lengths that differ: a draft among single tokens; drafts of several lengths; some sequences without a query."""

LONGEST_DRAFT = 17
"""Of a ragged batch: 1 + 16 tokens, the longest that is deployed."""

BLIND = tuple(map(frozenset, (("padded",), ("short",), ("empty",), ("alibi", "sinks"), ("bounded", "poison.tails"))))
"""Levels at which, together, kernels are known to fail (docs/findings.md): nothing else of the case can be seen."""

CAUSAL = Axis("causal", ("causal", "noncausal"))
DTYPE = Axis("dtype", DTYPES)
QUERIES = Axis(
    "queries",
    (*map(str, (8, *range(1, 8), *range(9, 18), 32)), *RAGGED),
)
CONTEXT = Axis("context", tuple(context.name for context in CONTEXTS))
RATIO = Axis("ratio", tuple(map(str, (2, 1, 4, 3, 5, 6, 7, 8, 12, 16, 32, 64))))
KV_HEADS = Axis("KV heads", ("1", "2", "3", "4", "8"))
HEAD_DIM = Axis("head dim", tuple(map(str, (64, 32, 72, 80, 96, 112, 128, 160, 192, 256, 512))))
PAGE = Axis("page", tuple(map(str, (16, 1, 8, 32, 48, 64, 128, 256, 544, 1024))))
LAYOUT = Axis("layout", ("packed", *(layout for layout in LAYOUTS if layout != "packed")))
PAGE_ORDER = Axis("page order", ("shuffled", "ascending", "shared", "high"))
TABLE = Axis("table", ("1x", "8x", "64x"))
PADDING = Axis("padding", ("none", "padded"))
WINDOW = Axis("window", ("none", "left", "both", "right", "wide"))
BATCH = Axis("batch", ("2", "1", "3", "7", "33", "128"))
REGIME = Axis("regime", REGIMES)
SCORES = Axis("scores", ("none", "softcap", "alibi"))
SINKS = Axis("sinks", ("none", "sinks"))
CACHE = Axis("cache", ("none", "cache.e4m3fn", "cache.e4m3fnuz"))
SCALE = Axis("scale", ("none", "scale"))
BOUND = Axis("bound", ("none", "bounded"))
Q_ROWS = Axis("q rows", ("dense", "q.fused"))

AXES = (CAUSAL, DTYPE, QUERIES, CONTEXT, RATIO, KV_HEADS, HEAD_DIM, PAGE, LAYOUT, PAGE_ORDER, TABLE, PADDING, WINDOW,
        BATCH, REGIME, SCORES, SINKS, CACHE, SCALE, BOUND, Q_ROWS)  # fmt: skip

KEY_BOUND = 4_096
"""What a caller says of shorter contexts: enough for every kernel that goes by it to cut the keys into segments."""

TAIL_REGIMES = ("poison.tails", "poison.garbage")
KEYLESS_REGIMES = ("random", "poison.pages", "poison.table")

MOST_OUTPUT = 2**22
"""Elements of an output."""

MOST_WORK = 2**30
"""Multiplications of the product of q and K: what a float64 oracle does in about a second."""

MOST_BYTES = 2**26
"""Of K and V of the longest sequence, and again of all others. Ids above 65,535 may have twice that."""

MOST_ENTRIES = 2**22
"""Entries of a block table."""

OTHERS_KEYS = 96
"""Keys of a sequence that is not the longest, apart from one that shares pages: at most so many, or a page more."""


def longest_draft(queries: str) -> int:
    """Query tokens of the longest draft of a batch."""
    return LONGEST_DRAFT if queries in RAGGED else int(queries)


def fewest_other_keys(context: str, queries: str) -> int:
    """Keys that each sequence has at least, unless it is a padded row: as many as the longest draft has queries."""
    return 1 if context == "short" else longest_draft(queries)


def possible_lengths(  # each argument is a level
    context: str,
    queries: str,
    page: str,
    *,
    regime: str = "random",
    page_order: str = "shuffled",
    fewer_pages: bool = False,
    batch: str = "1",
) -> list[int]:
    """Keys that the longest sequence may have; with `fewer_pages`, such that another can do with a page less."""
    size, found = int(page), lengths(context, longest_draft(queries), int(page))
    if regime in TAIL_REGIMES:
        found = [n for n in found if n % size]
    if page_order == "shared":
        found = [n for n in found if n >= size]
    if fewer_pages:  # of two sequences that share a page, the shorter has one too
        other = fewest_other_keys(context, queries)
        other = max(other, size) if page_order == "shared" and batch == "2" else other
        found = [n for n in found if -(-other // size) < -(-n // size)]
    return list(found)


def _enough_keys(context: str, page: str, queries: str) -> float:
    """A length that serves every regime and page order, where there is one; else the largest."""
    some = possible_lengths(context, queries, page)
    size, other = int(page), fewest_other_keys(context, queries)
    versatile = [n for n in some if n % size and n >= 2 * size and n > size + other]
    return min(versatile or some[-1:] or [0])


def row_bytes(layout: str, kv_heads: str, head_dim: str) -> int:
    """Bytes of one key and its value, what the layout leaves unused included."""
    both = 1 if layout in ("packed", "interleaved") else 2  # whose rows hold K and V
    return 2 * both * page_stride(layout, 1, int(kv_heads), int(head_dim))


def _number(level: str) -> float:
    return float(level.removesuffix("x"))


def _lengths_exist() -> Iterator[Constraint]:
    lengths_of = (CONTEXT, QUERIES, PAGE)
    yield rule(
        "no context is shorter than a single query, and a page of one key has no inside",
        lengths_of,
        lambda *levels: bool(possible_lengths(*levels)),
    )
    yield rule(
        "the tail of a last page needs a longest sequence that does not fill it",
        (*lengths_of, REGIME),
        lambda *levels: bool(possible_lengths(*levels[:3], regime=levels[3])),
        where={"regime": TAIL_REGIMES},
    )
    yield rule(
        "a shared page is one that the longest sequence fills",
        (*lengths_of, REGIME, PAGE_ORDER),
        lambda *levels: bool(possible_lengths(*levels[:3], regime=levels[3], page_order=levels[4])),
        where={"page order": ["shared"]},
    )
    yield rule(
        "an entry past a sequence's end needs a wider table, a padded row, or a sequence of fewer pages",
        (*lengths_of, PAGE_ORDER, BATCH, REGIME, TABLE, PADDING),
        lambda *levels: levels[0] == "empty" or _one_has_fewer_pages(*levels[:5]),
        where={"regime": ["poison.table"], "table": ["1x"], "padding": ["none"]},
    )


def _one_has_fewer_pages(context: str, queries: str, page: str, page_order: str, batch: str) -> bool:
    fewer = possible_lengths(context, queries, page, page_order=page_order, fewer_pages=True, batch=batch)
    return batch != "1" and bool(fewer)


def _batches_are_large_enough() -> Iterator[Constraint]:
    yield rule(
        "query lengths that differ need two sequences, and three where one is padding and one has no query",
        (QUERIES, BATCH, PADDING),
        lambda queries, batch, padding: int(batch) >= (3 if (queries, padding) == ("absent", "padded") else 2),
        where={"queries": RAGGED},
    )
    yield rule(
        "padding needs a sequence that is none",
        (PADDING, BATCH),
        lambda _, batch: batch != "1",
        where={"padding": ["padded"]},
    )
    yield rule(
        "pages are shared by two sequences that are no padding",
        (PAGE_ORDER, BATCH, PADDING),
        lambda _, batch, padding: int(batch) >= (3 if padding == "padded" else 2),
        where={"page order": ["shared"]},
    )


def _nothing_is_without_effect() -> Iterator[Constraint]:
    for why, axis, levels in (
        ("where every sequence is empty, none is padding", PADDING, ["none"]),
        ("a window over no keys cuts nothing", WINDOW, ["none"]),
        ("values that no key has cannot be changed", REGIME, KEYLESS_REGIMES),
        ("no page is shared where no key is", PAGE_ORDER, ["shuffled", "ascending", "high"]),
    ):
        yield rule(why, (CONTEXT, axis), lambda _, level, some=levels: level in some, where={"context": ["empty"]})
    yield rule(
        "a causal query sees nothing to its right: a right side alone is no window",
        (CAUSAL, WINDOW),
        lambda causal, window: (causal, window) != ("causal", "right"),
    )
    for axis in (SCORES, SINKS, CACHE):
        yield rule(
            "no non-causal kernel has softcap, ALiBi, sinks or a smaller cache: a few refusals are listed by hand",
            (CAUSAL, axis),
            lambda _, level: level == "none",
            where={"causal": ["noncausal"]},
        )
    yield rule(
        f"no context of {KEY_BOUND:,} keys or more is below that bound",
        (CONTEXT, BOUND),
        lambda *_: False,
        where={"context": ["very long"], "bound": ["bounded"]},
    )
    yield rule(
        "only a causal kernel is told a bound of its keys",
        (CAUSAL, BOUND),
        lambda *_: False,
        where={"causal": ["noncausal"], "bound": ["bounded"]},
    )


def _what_is_affordable() -> Iterator[Constraint]:
    heads = [((axis,), _number) for axis in (RATIO, KV_HEADS, HEAD_DIM)]
    batch, page, table = (((axis,), _number) for axis in (BATCH, PAGE, TABLE))
    per_key = ((LAYOUT, KV_HEADS, HEAD_DIM), row_bytes)
    yield budget("an output has at most 2^22 elements", MOST_OUTPUT, [((QUERIES,), longest_draft), *heads, batch])
    yield budget(
        "the oracle takes at most 2^30 multiplications for the scores",
        MOST_WORK,
        [((CONTEXT, PAGE, QUERIES), lambda c, p, q: _enough_keys(c, p, q) * longest_draft(q)), *heads],
    )
    yield budget(
        "the longest sequence's keys and values take at most 64 MiB",
        MOST_BYTES,
        [((CONTEXT, PAGE), lambda c, p: _enough_keys(c, p, "32") + int(p)), per_key],
    )
    yield budget(
        "the other sequences' keys and values take at most 64 MiB",
        MOST_BYTES,
        [batch, ((PAGE,), lambda p: int(p) + OTHERS_KEYS), per_key],
    )
    yield budget(
        "page ids above 65,535 take caches of at most 128 MiB",
        2 * MOST_BYTES,
        [((PAGE_ORDER,), lambda order: FIRST_HIGH_PAGE if order == "high" else 0), page, per_key],
    )
    yield budget(
        "a block table has at most 2^22 entries",
        MOST_ENTRIES,
        [table, batch, ((CONTEXT, PAGE), lambda c, p: _enough_keys(c, p, "32") / int(p) + 1)],
    )


@cache
def space() -> Space:
    """The axes and all constraints; made once, in a second or two."""
    return Space(
        AXES,
        [*_lengths_exist(), *_batches_are_large_enough(), *_nothing_is_without_effect(), *_what_is_affordable()],
    )
