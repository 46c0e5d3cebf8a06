"""The case space: each level means what it says, illegal combinations are refused for a reason, and cases lead back."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance import contexts, realize
from conformance.axes import AXES, MOST_BYTES, MOST_ENTRIES, MOST_OUTPUT, MOST_WORK, space
from conformance.block_tables import FIRST_HIGH_PAGE, SPARE_PAGES
from conformance.case import LAYOUTS, REGIMES, Case
from conformance.layouts import page_stride
from conformance.space import UNKNOWN

PATIENT = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

PLAIN = {axis.name: axis.levels[0] for axis in AXES}


@st.composite
def legal_levels(draw: st.DrawFn) -> dict[str, str]:
    """A legal assignment: the axes in any order, each with any level that is still possible."""
    random = Random(draw(st.integers(0, 2**32)))
    chosen = [UNKNOWN] * len(AXES)
    for axis in random.sample(range(len(AXES)), len(AXES)):
        levels = list(range(len(AXES[axis].levels)))
        random.shuffle(levels)
        possible = (level for level in levels if space().consistent(axis, chosen)[level])
        chosen[axis] = next(
            level for level in possible if space().complete([*chosen[:axis], level, *chosen[axis + 1 :]]) is not None
        )
    return space().levels(chosen)


def case(text: str) -> Case:
    return Case.parse(text)


# -- from levels to a case, and back -----------------------------------------------------------------------------------


@given(legal_levels())
@PATIENT
def test_a_case_has_the_levels_that_it_was_made_from(levels: dict[str, str]) -> None:
    made = realize.case(levels)
    back = realize.levels(made)
    assert back.keys() == levels.keys()
    assert all(level in back[name] for name, level in levels.items())
    assert realize.case(dict(levels)) == made, "a pure function of the levels"
    assert Case.parse(made.id) == made
    assert len(made.id) < 220, "ids stay readable, in batches of 128 too"


@given(legal_levels())
@PATIENT
def test_every_level_has_something_to_act_on(levels: dict[str, str]) -> None:
    made = realize.case(levels)
    longest = max(made.seq_lens)
    if levels["regime"] in ("poison.tails", "poison.garbage"):
        assert longest % made.page_size, "there is a tail"
    if levels["regime"] == "poison.table":
        assert min(made.pages) < max(1, *made.pages) * made.table_width, "there is an entry past a sequence's end"
    if levels["page order"] == "shared":
        assert made.shared_pages
        assert sum(n >= made.page_size for n in made.seq_lens) >= 2
    if levels["padding"] == "padded":
        assert any(m and not n for m, n in zip(made.query_lens, made.seq_lens, strict=True))
        assert longest
    if levels["context"] != "empty" and levels["padding"] == "none":
        assert min(made.seq_lens) > 0
    if levels["context"] not in ("empty", "short"):
        fewer = [(m, n) for m, n in zip(made.query_lens, made.seq_lens, strict=True) if 0 < n < m]
        assert not fewer, "only `short` has queries that see nothing"
    if levels["window"] in ("left", "both", "right"):
        assert any(0 <= side < longest for side in made.window)
    if levels["bound"] == "bounded":
        assert made.key_bound > max(longest, contexts.THRESHOLD), "another kernel, or other segments, may be taken"
    if levels["scale"] == "scale":
        assert not 0.8 < made.scale * made.head_dim**0.5 < 1.25, "what a kernel takes unasked is not as good"


@given(legal_levels())
@PATIENT
def test_no_case_is_larger_than_its_budgets(levels: dict[str, str]) -> None:
    made = realize.case(levels)
    heads, lens = made.q_heads * made.head_dim, zip(made.query_lens, made.seq_lens, strict=True)
    assert made.tokens * heads <= MOST_OUTPUT
    assert sum(m * n for m, n in lens) * heads <= 2 * MOST_WORK
    assert cache_bytes(made) <= 4 * MOST_BYTES, "256 MiB"
    assert made.batch * max(1, *made.pages) * made.table_width <= 2 * MOST_ENTRIES


def cache_bytes(made: Case) -> int:
    """Of K and V, both in 16 bits, whatever lies between their rows included."""
    first = FIRST_HIGH_PAGE if made.page_order == "high" else 0
    stride = page_stride(made.layout, made.page_size, made.kv_heads, made.head_dim)
    tensors = 1 if made.layout in ("packed", "interleaved") else 2
    return 2 * tensors * stride * (first + sum(made.pages) + SPARE_PAGES)


def test_what_levels_leave_open_varies_from_case_to_case() -> None:
    made = [
        realize.case(PLAIN | {"queries": str(m), "regime": regime})
        for m in range(1, 9)
        for regime in ("random", "large")
    ]
    assert len({max(case.seq_lens) for case in made}) > 2
    assert len({case.seq_lens.index(max(case.seq_lens)) for case in made}) == 2


EXAMPLES = {
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv64+30-packed-needle": {
        "queries": {"8"}, "context": {"page", "tile"}, "ratio": {"2"}, "padding": {"none"}, "window": {"none"},
        "scores": {"none"}, "sinks": {"none"}, "cache": {"none"}, "scale": {"none"}, "bound": {"none"},
        "q rows": {"dense"}, "table": {"1x"}, "batch": {"2"}, "page order": {"shuffled"},
    },
    "decode-causal-bf16-b3-q1+9+1-h6:1-d64-p48-kv48+513+0-w600:0-table8x-pages.shared-packed-random": {
        "queries": {"one draft"}, "context": {"513", "tile+1"}, "padding": {"padded"}, "window": {"both"},
        "page order": {"shared"}, "table": {"8x"}, "page": {"48"}, "ratio": {"6"},
    },
    "decode-causal-bf16-b2-q0+9-h6:1-d64-p1-kv0+5-w7:inf-softcap30-sinks-packed-random": {
        "queries": {"absent"}, "context": {"short"}, "padding": {"none"}, "window": {"wide"},
        "scores": {"softcap"}, "sinks": {"sinks"}, "cache": {"none"},
    },
    "decode-causal-bf16-b1-q2-h6:1-d64-p16-kv40-alibi-sinks-cache.e4m3fn-max513-scale0.1-q.fused-packed-random": {
        "scores": {"alibi"}, "sinks": {"sinks"}, "cache": {"cache.e4m3fn"}, "scale": {"scale"}, "bound": {"bounded"},
        "q rows": {"q.fused"},
    },
    "decode-causal-bf16-b1-q2-h6:1-d64-p16-kv40-softcap9-alibi-max512-packed-random": {
        "scores": {"alibi", "softcap"}, "bound": set(),
    },
    "decode-causal-bf16-b1-q2-h6:1-d64-p16-kv600-max600-packed-random": {"bound": {"none"}},
    "decode-noncausal-bf16-b2-q3+4-h6:1-d64-p16-kv0-packed-random": {
        "queries": {"mixed"}, "context": {"empty"}, "padding": {"none"},
    },
    "decode-noncausal-bf16-b2-q4-h6:1-d64-p16-kv9000+1024-winf:3-cache.e4m3fn-packed-random": {
        "context": {"very long"}, "window": {"right"}, "cache": {"cache.e4m3fn"},
    },
}  # fmt: skip


@pytest.mark.parametrize("text", EXAMPLES)
def test_levels_of_cases_that_were_written_by_hand(text: str) -> None:
    levels = realize.levels(case(text))
    assert {name: set(levels[name]) for name in EXAMPLES[text]} == EXAMPLES[text]


def test_levels_follow_what_a_case_may_be() -> None:
    levels = {axis.name: set(axis.levels) for axis in AXES}
    assert levels["layout"] == set(LAYOUTS)
    assert levels["regime"] == set(REGIMES)


# -- contexts as relations ---------------------------------------------------------------------------------------------

RELATIONS = {
    # keys, queries, page: all relations that hold
    (0, 4, 16): {"empty"},
    (3, 4, 16): {"short"},
    (4, 4, 16): set(),
    (15, 4, 16): {"page-1"},
    (16, 4, 16): {"page"},
    (17, 4, 16): {"page+1"},
    (1, 1, 16): set(),  # no page before it
    (63, 4, 64): {"page-1", "tile-1"},
    (65, 4, 48): {"tile+1"},
    (100, 4, 1): {"page"},
    (511, 4, 544): {"511", "tile-1"},
    (512, 4, 48): {"512", "tile"},
    (513, 4, 48): {"513", "tile+1"},
    (1023, 4, 544): {"segment-1", "tile-1"},
    (1024, 4, 544): {"segment", "tile"},
    (1537, 4, 544): {"segment+1", "tile+1", "long"},
    (2048, 1, 1024): {"segment", "tile", "page", "long"},
    (4097, 1, 544): {"tile+1", "segment+1"},
    (8191, 1, 544): {"tile-1", "segment-1"},
    (8200, 1, 544): {"very long"},
    (16, 17, 16): {"short"},
}


@pytest.mark.parametrize("lengths", RELATIONS, ids=str)
def test_relations_of_a_context(lengths: tuple[int, int, int]) -> None:
    assert contexts.of(*lengths) == RELATIONS[lengths]


@pytest.mark.parametrize("page", [1, 16, 48, 1024])
@pytest.mark.parametrize("queries", [1, 17])
def test_each_relation_has_lengths_or_cannot_have_any(queries: int, page: int) -> None:
    for context in contexts.CONTEXTS:
        some = contexts.lengths(context.name, queries, page)
        assert all(context.name in contexts.of(n, queries, page) for n in some)
        assert some == tuple(sorted(set(some)))
        impossible = (context.name == "short" and queries == 1) or (context.name in ("page-1", "page+1") and page == 1)
        assert bool(some) != impossible


# -- what is not legal -------------------------------------------------------------------------------------------------

NOT_LEGAL = {
    "is shorter than a single query": {"context": "short", "queries": "1"},
    "a page of one key has no inside": {"context": "page+1", "page": "1"},
    "the tail of a last page": {"context": "page", "regime": "poison.tails"},
    "a shared page is one that": {"context": "tile-1", "page": "1024", "page order": "shared"},
    "an entry past a sequence's end": {"batch": "1", "regime": "poison.table"},
    "query lengths that differ": {"queries": "mixed", "batch": "1"},
    "three where one is padding": {"queries": "absent", "padding": "padded"},
    "padding needs a sequence": {"batch": "1", "padding": "padded"},
    "pages are shared by two": {"batch": "2", "padding": "padded", "page order": "shared"},
    "none is padding": {"context": "empty", "padding": "padded"},
    "a window over no keys": {"context": "empty", "window": "left"},
    "values that no key has": {"context": "empty", "regime": "needle"},
    "no page is shared where": {"context": "empty", "page order": "shared"},
    "a right side alone": {"causal": "causal", "window": "right"},
    "a few refusals are listed by hand": {"causal": "noncausal", "sinks": "sinks"},
    "no context of 4,096 keys or more": {"context": "very long", "bound": "bounded"},
    "only a causal kernel is told": {"causal": "noncausal", "bound": "bounded"},
    "an output has at most": {"batch": "128", "queries": "32", "ratio": "64", "head dim": "512"},
    "the oracle takes at most": {"context": "very long", "queries": "17", "ratio": "64", "head dim": "128"},
    "the longest sequence's keys": {"context": "very long", "KV heads": "8", "head dim": "512"},
    "the other sequences' keys": {"batch": "128", "page": "1024", "KV heads": "8"},
    "page ids above 65,535 take": {"page order": "high", "page": "64"},
    "a block table has at most": {"context": "very long", "page": "1", "batch": "128", "table": "64x"},
}


@pytest.mark.parametrize("sentence", NOT_LEGAL)
def test_what_is_not_legal_and_why(sentence: str) -> None:
    objections = space().objections(PLAIN | NOT_LEGAL[sentence])
    assert any(sentence in objection for objection in objections), objections


def test_every_constraint_is_known_to_refuse_something_and_allows_something() -> None:
    for constraint in space().constraints:
        assert any(sentence in constraint.why for sentence in NOT_LEGAL), constraint.why
        assert constraint.legal.any()
        assert not constraint.legal.all()


def test_the_plainest_case_is_legal_and_so_is_every_single_level() -> None:
    assert space().objections(PLAIN) == []
    for axis in AXES:
        for level in axis.levels:
            assert space().complete(space().assignment({axis.name: level})) is not None
