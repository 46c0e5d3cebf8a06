"""Case ids: they round-trip, are safe where they are used and never change; garbage is refused in a sentence."""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from _pytest.mark.expression import Expression
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conformance.case import EXAMPLE, LAYOUTS, PAGE_ORDERS, REGIMES, BadCase, Case
from conformance.manifest import cases
from conformance.rounding import CACHE_DTYPES, DTYPES
from conformance.steps import step_of

PLAIN = Case(
    causal=False,
    dtype="bf16",
    query_lens=(16, 16),
    seq_lens=(1000, 1000),
    q_heads=32,
    kv_heads=8,
    head_dim=128,
    page_size=16,
    layout="packed",
)
"""The case that EXAMPLE names."""

QUICKLY = 0.3
"""Seconds of this process, far above what reading an id takes and far below what building a billion lengths would."""

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For machines that others use too."""


def lengths(batch: int, *, least_sum: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    """Uniform batches and ragged ones, with runs."""
    one = st.integers(0, 5) | st.integers(0, 2**20)
    ragged = st.lists(one, min_size=batch, max_size=batch).map(tuple)
    uniform = one.map(lambda n: (n,) * batch)
    return (uniform | ragged).filter(lambda lens: sum(lens) >= least_sum)


@st.composite
def legal_cases(draw: st.DrawFn) -> Case:
    case = draw(decoding_cases())
    if case.cache_dtype and case.kv_heads > 1:
        case = replace(case, per_head_descales=draw(st.booleans()))
    if case.cache_dtype and case.batch > 1 and not case.shared_pages:
        case = replace(case, per_sequence_descales=draw(st.booleans()))
    prefills = draw(st.lists(st.booleans(), min_size=case.batch, max_size=case.batch))
    return step_of(case, draw(st.integers(1, 40)), prefills=prefills, chunk=draw(st.integers(0, 300)))


@st.composite
def decoding_cases(draw: st.DrawFn) -> Case:
    batch = draw(st.integers(1, 6))
    kv_heads = draw(st.integers(1, 64))
    side = st.integers(-1, 3) | st.integers(-1, 2**20)
    return Case(
        causal=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
        query_lens=draw(lengths(batch, least_sum=1)),
        seq_lens=draw(lengths(batch)),
        q_heads=kv_heads * draw(st.integers(1, 16)),
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 1024)),
        page_size=draw(st.integers(1, 4096)),
        layout=draw(st.sampled_from(LAYOUTS)),
        regime=draw(st.sampled_from(REGIMES)),
        window=draw(st.tuples(side, side)),
        softcap=draw(st.sampled_from((0.0, 0.5, 1.0, 20.0, 30.0, 50.0, 30.25, 12.5)) | st.integers(1, 999).map(float)),
        alibi=draw(st.booleans()),
        sinks=draw(st.booleans()),
        table_width=draw(st.integers(1, 64)),
        page_order=draw(st.sampled_from([order for order in PAGE_ORDERS if order != "shared"])),
        cache_dtype=draw(st.sampled_from(("", *CACHE_DTYPES))),
        max_keys=draw(st.sampled_from((0, 2**20, 2**31 - 1))),
        scale=draw(st.sampled_from((0.0, 0.2, 0.0625, 1.0, 2.5))),
        fused_q=draw(st.booleans()),
        q_dtype=draw(st.sampled_from(("", *CACHE_DTYPES))),
    )


# -- ids that a case writes --------------------------------------------------------------------------------------------


@given(legal_cases())
@settings(PATIENT, max_examples=200)
def test_an_id_round_trips(case: Case) -> None:
    assert Case.parse(case.id) == case


@given(st.floats(min_value=0.0))
@example(30.1234567)
@example(1e-5)
@example(1e6)
@example(float("inf"))
@example(float("nan"))
@settings(PATIENT, max_examples=100)
def test_a_number_that_no_id_can_carry_is_no_case(number: float) -> None:
    for field in ("softcap", "scale"):
        with suppress(BadCase):
            case = replace(PLAIN, **{field: number})
            assert Case.parse(case.id) == case


@given(legal_cases())
@settings(PATIENT, max_examples=100)
def test_an_id_selects_its_case_with_pytest_k(case: Case) -> None:
    asked: list[str] = []

    def matches(name: str, /, **_: Any) -> bool:
        asked.append(name)
        return True

    assert Expression.compile(f"not {case.id}").evaluate(matches) is False
    assert asked == [case.id], "pytest -k must take the id as one word"


@given(legal_cases())
@settings(PATIENT, max_examples=100)
def test_an_id_needs_no_quotes_and_survives_a_node_id(case: Case) -> None:
    assert not set(case.id) & set("/[]() \t\n'\"\\$*?&|;<>#!~`{}")
    assert case.id.isascii()


def test_the_example_is_an_id() -> None:
    assert Case.parse(EXAMPLE) == PLAIN
    assert PLAIN.id == EXAMPLE


GOLDEN = {
    "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-packed-random": PLAIN,
    "decode-causal-fp16-b1-q1-h1:1-d64-p1-kv0-contiguous-random": Case(
        causal=True,
        dtype="fp16",
        query_lens=(1,),
        seq_lens=(0,),
        q_heads=1,
        kv_heads=1,
        head_dim=64,
        page_size=1,
    ),
    "decode-noncausal-bf16-b5-q1x3+17+1-h5:1-d96-p48-kv9+8x2+7x2-interleaved-needle": replace(
        PLAIN,
        query_lens=(1, 1, 1, 17, 1),
        seq_lens=(9, 8, 8, 7, 7),
        q_heads=5,
        kv_heads=1,
        head_dim=96,
        page_size=48,
        layout="interleaved",
        regime="needle",
    ),
    "decode-causal-bf16-b2-q16-h32:8-d128-p16-kv1000-w31:0-packed-random": replace(PLAIN, causal=True, window=(31, 0)),
    "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-winf:3-packed-random": replace(PLAIN, window=(-1, 3)),
    "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-w128:inf-table8x-packed-poison.tails": replace(
        PLAIN, window=(128, -1), table_width=8, regime="poison.tails"
    ),
    "decode-causal-bf16-b2-q16-h32:8-d128-p16-kv1000-softcap30-alibi-sinks-packed-random": replace(
        PLAIN, causal=True, softcap=30.0, alibi=True, sinks=True
    ),
    "decode-noncausal-bf16-b2-q0+4-h32:8-d128-p16-kv1000-softcap0.5-packed-poison.pages": replace(
        PLAIN, query_lens=(0, 4), softcap=0.5, regime="poison.pages"
    ),
    "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-w0:0-sinks-contiguous-poison.garbage": replace(
        PLAIN, window=(0, 0), sinks=True, layout="contiguous", regime="poison.garbage"
    ),
    "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-table64x-pages.shared-packed-poison.table": replace(
        PLAIN, table_width=64, page_order="shared", regime="poison.table"
    ),
    "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-pages.high-cache.e4m3fn-padded-onehot": replace(
        PLAIN, page_order="high", cache_dtype="e4m3fn", layout="padded", regime="onehot"
    ),
    "decode-causal-bf16-b2-q16-h32:8-d128-p16-kv1000-sinks-cache.e4m3fnuz-max4096-scale0.0625-q.fused-packed-random": (
        replace(PLAIN, causal=True, sinks=True, cache_dtype="e4m3fnuz", max_keys=4096, scale=0.0625, fused_q=True)
    ),
    "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-table2x-max1000-packed-random": replace(
        PLAIN, table_width=2, max_keys=1000
    ),
}
"""Typed by hand. Records are compared by id, for years: an id that changes here makes every old result an orphan."""


@pytest.mark.parametrize("text", GOLDEN)
def test_ids_are_for_ever(text: str) -> None:
    assert GOLDEN[text].id == text
    assert Case.parse(text) == GOLDEN[text]


def test_a_tier_names_each_case_once() -> None:
    smoke = cases("smoke")
    assert len(set(smoke)) == len(smoke) == len({case.id for case in smoke})


def test_what_follows_from_the_fields() -> None:
    case = replace(PLAIN, query_lens=(3, 0, 5), seq_lens=(33, 0, 16))
    assert (case.batch, case.tokens, case.gqa_ratio) == (3, 8, 4)
    assert case.query_starts == (0, 3, 3, 8)
    assert case.pages == (3, 0, 1)


# -- what is no case ---------------------------------------------------------------------------------------------------


DESCALES_OF_SEQUENCES = "descales differ from sequence to sequence where several share no page of a smaller cache"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"seq_lens": (7,)}, "2 query lengths do not go with 1 sequence lengths"),
        ({"query_lens": (), "seq_lens": ()}, "0 query lengths do not go with 0 sequence lengths"),
        ({"query_lens": (0, 0)}, "lengths must not be negative, and some sequence must have a query"),
        ({"query_lens": (-1, 2)}, "lengths must not be negative, and some sequence must have a query"),
        ({"seq_lens": (5, -1)}, "lengths must not be negative, and some sequence must have a query"),
        ({"q_heads": 0}, "heads, head dimension, page size and table width must be positive"),
        ({"kv_heads": 0}, "heads, head dimension, page size and table width must be positive"),
        ({"head_dim": 0}, "heads, head dimension, page size and table width must be positive"),
        ({"page_size": 0}, "heads, head dimension, page size and table width must be positive"),
        ({"table_width": 0}, "heads, head dimension, page size and table width must be positive"),
        ({"q_heads": 12}, "12 query heads cannot share 8 KV heads evenly"),
        ({"window": (-2, 0)}, "a window side is a number of keys, or -1 for unbounded"),
        ({"softcap": -1.0}, "softcap -1.0 is not a plain positive number of at most 6 digits"),
        ({"scale": -0.5}, "scale -0.5 is not a plain positive number of at most 6 digits"),
        ({"scale": 1e-5}, "scale 1e-05 is not a plain positive number of at most 6 digits"),
        ({"max_keys": 999}, "999 is no upper bound of 1000 keys, or more than 2147483647"),
        ({"max_keys": -1}, "-1 is no upper bound of 1000 keys, or more than 2147483647"),
        ({"max_keys": 2**31}, "2147483648 is no upper bound of 1000 keys, or more than 2147483647"),
        ({"dtype": "fp8"}, "dtype 'fp8' is none of bf16, fp16"),
        ({"layout": "sideways"}, f"layout 'sideways' is none of {', '.join(LAYOUTS)}"),
        ({"regime": "poison"}, f"regime 'poison' is none of {', '.join(REGIMES)}"),
        ({"page_order": "lowest"}, f"page order 'lowest' is none of {', '.join(PAGE_ORDERS)}"),
        ({"cache_dtype": "int4"}, f"cache dtype 'int4' is none of {', '.join(CACHE_DTYPES)}"),
        ({"q_dtype": "int4"}, f"q dtype 'int4' is none of {', '.join(CACHE_DTYPES)}"),
        ({"per_head_descales": True}, "descales differ from head to head where a smaller cache has several"),
        ({"per_sequence_descales": True}, DESCALES_OF_SEQUENCES),
        (
            {"per_sequence_descales": True, "cache_dtype": "e4m3fn", "query_lens": (16,), "seq_lens": (1000,)},
            DESCALES_OF_SEQUENCES,
        ),
        ({"per_sequence_descales": True, "cache_dtype": "e4m3fn", "page_order": "shared"}, DESCALES_OF_SEQUENCES),
        ({"chunk": 64}, "no sequence has a context that is taken in chunks"),
        ({"chunk": -1}, "the decode threshold and a chunk are numbers of tokens, at most 2147483647"),
        ({"decode_threshold": 16}, "every sequence decodes: a threshold of 16 says nothing"),
        (
            {"decode_threshold": 8, "query_lens": (16, 8)},
            "a batch holds its decodes first, then its extends, then its prefills",
        ),
        (
            {"decode_threshold": 8, "seq_lens": (1000, 9)},
            "16 tokens of a prompt are more than the 9 keys of its sequence",
        ),
        ({"decode_threshold": 8, "window": (9, 9), "chunk": 64}, "no sequence has a context that is taken in chunks"),
    ],
)
def test_fields_that_describe_no_call(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadCase) as refused:
        replace(PLAIN, **fields)
    assert str(refused.value) == sentence


def mutant(old: str, new: str) -> str:
    assert old in EXAMPLE
    return EXAMPLE.replace(old, new)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", f"not a case id: '' (a case id reads like {EXAMPLE})"),
        ("decode", f"not a case id: 'decode' (a case id reads like {EXAMPLE})"),
        (EXAMPLE + "\n", f"not a case id: {EXAMPLE + chr(10)!r} (a case id reads like {EXAMPLE})"),
        (mutant("-packed", "-red-packed"), f"'red' means nothing in case id {mutant('-packed', '-red-packed')!r}"),
        (mutant("-packed", "-w3-packed"), f"'w3' means nothing in case id {mutant('-packed', '-w3-packed')!r}"),
        (mutant("-pa", "-w1:2:3-pa"), f"'w1:2:3' means nothing in case id {mutant('-pa', '-w1:2:3-pa')!r}"),
        (mutant("q16", "q1++2"), "not a list of lengths: '1++2' (write 16, or 1+5+16, or 1x3+17)"),
        (mutant("q16", "qx"), "not a list of lengths: 'x' (write 16, or 1+5+16, or 1x3+17)"),
        (mutant("q16", "q1x2x3"), "not a list of lengths: '1x2x3' (write 16, or 1+5+16, or 1x3+17)"),
        (mutant("b2", "b65537"), "a batch has at most 65536 sequences, not 65537"),
        (mutant("q16", "q1+2+3"), "'1+2+3' gives 3 lengths for a batch of 2"),
        (mutant("q16", "q16+16"), f"{mutant('q16', 'q16+16')!r} is written {EXAMPLE!r}"),
        (mutant("b2", "b02"), f"{mutant('b2', 'b02')!r} is written {EXAMPLE!r}"),
        (mutant("-packed", "-max0-packed"), f"{mutant('-packed', '-max0-packed')!r} is written {EXAMPLE!r}"),
        (mutant("-packed", "-scale0-packed"), f"{mutant('-packed', '-scale0-packed')!r} is written {EXAMPLE!r}"),
        (mutant("-packed", "-table1x-packed"), f"{mutant('-packed', '-table1x-packed')!r} is written {EXAMPLE!r}"),
        (mutant("decode", "extend"), f"{mutant('decode', 'extend')!r} is written {EXAMPLE!r}"),
        (mutant("-pa", "-t8-pa"), f"{mutant('-pa', '-t8-pa')!r} is written {'extend' + mutant('-pa', '-t8-pa')[6:]!r}"),
        (mutant("bf16", "int8"), "dtype 'int8' is none of bf16, fp16"),
        (mutant("h32:8", "h32:5"), "32 query heads cannot share 5 KV heads evenly"),
    ],
)  # fmt: skip
def test_text_that_is_no_id(text: str, sentence: str) -> None:
    with pytest.raises(BadCase) as refused:
        Case.parse(text)
    assert str(refused.value) == sentence


def refuse_or_read(text: str) -> None:
    """Only BadCase may come of a text, in no time, whatever it holds."""
    started = time.process_time()
    with suppress(BadCase):
        assert Case.parse(text).id == text
    assert time.process_time() - started < QUICKLY


@given(st.text(max_size=200))
@settings(PATIENT, max_examples=200)
def test_garbage_is_refused(text: str) -> None:
    refuse_or_read(text)


@st.composite
def spoiled_ids(draw: st.DrawFn) -> str:
    """An id with up to four pieces replaced by others of its kind, lost, doubled or swapped."""
    pieces = draw(legal_cases()).id.split("-")
    small = st.integers(0, 300)
    other = st.one_of(
        st.text("0123456789+x:.abdfhikpqvw-", max_size=8),
        small.map(str),
        st.builds(
            "{}{}".format, st.sampled_from(("b", "q", "kv", "d", "p", "w", "softcap", "table", "max", "scale")), small
        ),
        st.text("0123456789.", min_size=1, max_size=6).map("softcap{}".format),
        st.sampled_from(
            (
                "alibi",
                "sinks",
                "winf:inf",
                "w3:4",
                "table0x",
                "softcap1.2.3",
                "softcap.",
                "scale.",
                "q.fused",
                "q1x0",
                "kv²",
            )
        ),
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(pieces) - 1))
        pieces[at : at + 1] = draw(st.sampled_from((0, 1, 2))) * [pieces[at]] + draw(st.lists(other, max_size=1))
        pieces = pieces or [""]
    return "-".join(pieces)


@given(spoiled_ids())
@example(mutant("-packed", "-softcap1.2.3-packed"))
@example(mutant("-packed", "-softcap.-packed"))
@settings(PATIENT, max_examples=250)
def test_a_spoiled_id_is_refused_or_another_id(text: str) -> None:
    refuse_or_read(text)


@pytest.mark.parametrize(
    "text",
    [
        mutant("b2", "b3000000"),
        mutant("b2", "b999999999999"),
        mutant("kv1000", "kv1x3000000"),
        mutant("kv1000", "kv" + "+".join(["1x2000000"] * 2)),
        mutant("q16", "q" + "9" * 5000),
        mutant("kv1000", "kv" + "9" * 5000),
        mutant("h32:8", "h" + "8" * 5000 + ":8"),
        mutant("-packed", "-table" + "9" * 5000 + "x-packed"),
        mutant("-packed", "-w" + "9" * 5000 + ":1-packed"),
        mutant("-packed", "-softcap" + "9" * 500 + "-packed"),
        mutant("-packed", "-max" + "9" * 5000 + "-packed"),
        mutant("-packed", "-scale" + "9" * 500 + "-packed"),
    ],
    ids=lambda text: text if len(text) < 90 else f"{text[:60]}...",
)
def test_absurd_numbers_are_refused_before_they_cost_memory(text: str) -> None:
    """A few million stand for the absurd: what is slow there exhausts the memory of any machine a few digits later."""
    started = time.process_time()
    with pytest.raises(BadCase):
        Case.parse(text)
    assert time.process_time() - started < QUICKLY


@pytest.mark.parametrize("fields", [{"seq_lens": (2**31, 5)}, {"query_lens": (2**31, 5)}, {"table_width": 2**31}])
def test_what_int32_cannot_hold_is_no_case(fields: dict[str, Any]) -> None:
    """Kernels take lengths, and indices into the table, as int32."""
    with pytest.raises(BadCase):
        replace(PLAIN, **fields)
