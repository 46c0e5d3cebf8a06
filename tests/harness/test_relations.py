"""Relations: what they ask for is true, correct kernels meet it, and whatever breaks one is called what it is."""

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from conformance.backends import Answer, Backend
from conformance.case import LAYOUTS, REGIMES, BadCase, Case
from conformance.check import EVERY_RELATION, OF_A_TIER, Check, drawn, of_tier
from conformance.execute import exact
from conformance.inputs import TORCH_DTYPE, Inputs, make
from conformance.manifest import TIERS
from conformance.relate import relate
from conformance.relations import RELATIONS, Relation
from conformance.rounding import CACHE_DTYPES, DTYPES
from conformance.second_calls import SHIFT
from conformance.status import Status
from conformance.targets import Target
from tests.harness.flash import Flash

CPU = Target("cpu", "cpu", torch.device("cpu"))

DRAFT = "decode-noncausal-bf16-b3-q4-h2:1-d16-p16-kv48+20+37-packed-random"

SMOKE = [check for check in of_tier("smoke") if isinstance(check.relation, Relation)]

WORDS = (
    "",
    "-pages.shared",
    "-cache.e4m3fn",
    "-table3x",
    "-w20:inf",
    "-cache.e5m2",
    "-scale0.2-q.fused",
    "-max600",
    "-table2x",
    "-cache.e4m3fnuz",
)

MIXED = [
    f"decode-{mode}-{dtype}-{batch}-{keys}{word}-{LAYOUTS[at % 5]}-{REGIMES[at]}"
    for at, word in enumerate(WORDS)
    for mode, dtype, batch, keys in (
        ("causal", "bf16", "b4-q1+6+0+3-h4:2-d16", "p16-kv70+16+0+33"),
        ("noncausal", "fp16", "b2-q1-h2:1-d32", "p8-kv70+21"),
    )
]
"""Every regime, layout and cache dtype, a sequence without keys, one without queries, a draft longer than its keys."""


def applicable() -> Iterator[Check]:
    yield from SMOKE
    for name in MIXED:
        case = Case.parse(name)
        yield from (Check(case, relation) for relation in RELATIONS.values() if relation.applies(case))


EVERY = list(applicable())


def relation_of(check: Check) -> Relation:
    assert isinstance(check.relation, Relation)
    return check.relation


# -- what is asked for is true -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.id)
def test_exact_answers_agree(check: Check) -> None:
    """The oracle, in float64, gives the same numbers to both calls."""
    first, second = relation_of(check).calls(check.case)
    want, other = exact(first.case, first.inputs), exact(second.case, second.inputs)
    out, lse = other.out, other.lse
    if second.rows is not None:
        out, lse = out[second.rows], lse[second.rows]
    if second.shift is not None:
        out = out - second.shift
    torch.testing.assert_close(out, want.out, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(lse, want.lse, rtol=1e-11, atol=1e-11)


def memory(inputs: Inputs) -> set[int]:
    values = (getattr(inputs, f.name) for f in fields(Inputs))
    return {value.untyped_storage().data_ptr() for value in values if isinstance(value, Tensor)}


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.id)
def test_two_calls_share_no_memory_and_keep_the_layout(check: Check) -> None:
    first, second = relation_of(check).calls(check.case)
    if relation_of(check).shares:
        assert second.inputs is first.inputs
    else:
        assert not memory(first.inputs) & memory(second.inputs)
    assert first.case == check.case
    resized = make(replace(second.case, regime="random"))
    assert second.inputs.q.stride() == resized.q.stride()
    assert second.inputs.k_cache.stride() == resized.k_cache.stride()
    assert second.inputs.v_cache.storage_offset() == resized.v_cache.storage_offset()
    assert second.inputs.seq_lens.tolist() == list(second.case.seq_lens)
    assert second.inputs.query_start_loc.tolist() == list(second.case.query_starts)


@pytest.mark.parametrize("name", RELATIONS)
def test_the_second_call_is_the_same_on_every_machine(name: str) -> None:
    check = next(check for check in SMOKE if relation_of(check).name == name)
    one, two = (relation_of(check).calls(check.case)[1].inputs for _ in range(2))
    assert one.digest() == two.digest()
    if name not in ("repeated", "single.query", "keys.bounded"):
        assert one.digest() != make(check.case).digest()


def test_every_page_is_renamed() -> None:
    case = Case.parse(MIXED[0])
    first, second = (call.inputs for call in RELATIONS["pages.renamed"].calls(case))
    assert (first.block_table != second.block_table).all()
    for row, other, pages in zip(first.block_table.long(), second.block_table.long(), case.pages, strict=True):
        assert torch.equal(first.k_cache[row[:pages]], second.k_cache[other[:pages]])


@pytest.mark.parametrize("dtype", DTYPES + CACHE_DTYPES)
def test_shifted_values_are_exact(dtype: str) -> None:
    cache = "" if dtype in ("bf16", "fp16") else f"-cache.{dtype}"
    case = Case.parse(
        f"decode-noncausal-{dtype if not cache else 'bf16'}-b2-q2-h2:1-d64-p16-kv100+37{cache}-packed-random"
    )
    first, second = (call.inputs.v_cache for call in RELATIONS["values.shifted"].calls(case))
    assert first.dtype is TORCH_DTYPE[dtype]
    assert torch.equal(second.double(), first.double() + SHIFT)
    assert len(first.float().unique()) >= 4


# -- correct kernels ---------------------------------------------------------------------------------------------------


def as_aiter_has_it(case: Case, inputs: Inputs) -> Answer:
    """Two kernels, one for each mode, of different tiles, splits and rounding; a smaller cache is widened first."""
    if inputs.k_descale is not None and inputs.v_descale is not None:
        k, v = (
            (cache.float() * float(descale[0, 0])).to(inputs.q.dtype)
            for cache, descale in ((inputs.k_cache, inputs.k_descale), (inputs.v_cache, inputs.v_descale))
        )
        inputs = replace(inputs, k_cache=k, v_cache=v, k_descale=None, v_descale=None)
    kernel = Flash() if case.causal else Flash(tile=16, splits=3, rounds_q=True)
    return Answer(*kernel(case, inputs), profile=kernel.profile(case), path="a" if case.causal else "b")


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.id)
def test_correct_kernels_meet_every_relation(check: Check) -> None:
    verdict = relate(relation_of(check), check.case, Backend("correct", as_aiter_has_it), CPU)
    assert verdict.status is Status.PASS, verdict
    assert (verdict.figures is None) == relation_of(check).bitwise
    assert verdict.seconds is not None
    assert verdict.path in ("a", "b", "a and b", "b and a")


def test_bounds_follow_the_rows_that_they_are_of() -> None:
    """Values of one sequence are 1,024 times those of the other: neither may be judged by the other's bound."""
    case = Case.parse("decode-noncausal-bf16-b2-q2-h2:1-d32-p16-kv90+40-packed-random")

    def enlarge(inputs: Inputs) -> None:
        inputs.v_cache[inputs.block_table[0, : case.pages[0]].long()] *= 1024

    def wrong_in_one_order(asked: Case, inputs: Inputs) -> Tensor:
        out, _ = Flash()(asked, inputs)
        if asked.seq_lens == case.seq_lens:
            out[2:] *= 1.5
        return out

    relation = replace(RELATIONS["batch.permuted"], bitwise=False, prepare=enlarge)
    assert relate(relation, case, Backend("correct", Flash()), CPU).status is Status.PASS
    verdict = relate(relation, case, Backend("wrong", wrong_in_one_order), CPU)
    assert verdict.status is Status.MISMATCH
    assert verdict.wrong is not None
    assert verdict.wrong.any(1).tolist() == [False, False, True, True]


# -- checks and tiers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [*EVERY, Check(Case.parse(DRAFT))], ids=lambda check: check.id)
def test_an_id_names_its_check(check: Check) -> None:
    assert Check.parse(check.id) == check


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"nope/{DRAFT}", "no relation is called 'nope': there are repeated, pages.renamed, "),
        (f"/{DRAFT}", "no relation is called ''"),
        (f"a/repeated/{DRAFT}", "no relation is called 'a/repeated'"),
        ("repeated/garbage", "not a case id: 'garbage'"),
        ("repeated/", "not a case id: ''"),
        (f"draft.unrolled/{DRAFT}", f"relation draft.unrolled needs causal drafts of several queries, which {DRAFT} "),
        (f"single.query/{DRAFT}", "relation single.query needs at most one query a sequence"),
        ("poison.tails/decode-causal-bf16-b1-q1-h1:1-d16-p4-kv8-packed-random", "needs a partial last page"),
        ("poison.tails/decode-causal-bf16-b1-q1-h1:1-d16-p4-kv7-packed-poison.tails", "needs a partial last page with"),
        ("poison.pages/decode-causal-bf16-b1-q1-h1:1-d16-p4-kv7-packed-poison.pages", "needs other pages than NaN"),
        ("poison.table/decode-causal-bf16-b1-q1-h1:1-d16-p4-kv8-packed-random", "needs unused table entries"),
        ("batch.permuted/decode-causal-bf16-b1-q1-h1:1-d16-p4-kv8-packed-random", "needs several sequences"),
        ("values.shifted/decode-causal-bf16-b1-q1-h1:1-d16-p4-kv8-sinks-packed-random", "no sinks"),
        ("values.shifted/decode-causal-bf16-b1-q3-h1:1-d16-p4-kv2-packed-random", "needs a key for every query"),
        ("pages.renamed/decode-causal-bf16-b1-q1-h1:1-d16-p4-kv8-pages.high-packed-random", "needs a cache that can"),
    ],
)  # fmt: skip
def test_an_id_that_names_no_check_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadCase) as refused:
        Check.parse(text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("window", [(-1, -1), (3, -1), (-1, 2), (0, 0)], ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "noncausal"])
def test_values_are_shifted_where_every_query_sees_a_key(causal: bool, window: tuple[int, int]) -> None:
    """What the lengths and the window say of it is what the oracle sees: a query without a key has lse -inf."""
    for m, n in ((1, 1), (1, 5), (4, 4), (5, 3), (5, 1), (3, 0), (7, 3), (0, 0)):
        case = Case(
            causal=causal, dtype="bf16", query_lens=(2, m), seq_lens=(9, n), q_heads=1, kv_heads=1, head_dim=16,
            page_size=4, window=window,
        )  # fmt: skip
        sees = bool(exact(case, make(case), sums=False).lse.isfinite().all())
        assert RELATIONS["values.shifted"].applies(case) is sees, (m, n)


def test_smoke_checks_every_relation_of_both_modes() -> None:
    seen = {(relation_of(check).name, check.case.causal) for check in SMOKE}
    both = {(name, causal) for name in RELATIONS for causal in (True, False)}
    assert both - seen <= {("draft.unrolled", False), ("single.query", True)}
    assert len(SMOKE) == len(set(SMOKE))


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_plans_cases_then_relations_each_once(tier: str) -> None:
    planned = of_tier(tier)
    assert planned == of_tier(tier)
    assert len(planned) == len(set(planned))
    kinds = [check.relation is not None for check in planned]
    assert kinds == sorted(kinds)
    assert {check.id for check in SMOKE} <= {check.id for check in planned}
    assert tier in OF_A_TIER


def test_what_is_drawn_from_a_tier_stays_when_the_tier_grows() -> None:
    """A newcomer may push one out by a lower hash; it changes nothing else."""
    cases = [Case.parse(name) for name in MIXED]
    few = set(drawn(cases, 4))
    for relation in EVERY_RELATION.values():
        of_this = [check for check in few if check.relation is relation]
        assert 2 <= len(of_this) <= 4
        assert all(relation.applies(check.case) for check in of_this)
        assert sum(check.case.causal for check in of_this) <= 2
    newcomer = replace(cases[0], seq_lens=(71, 16, 1, 33))
    more = set(drawn([newcomer, *cases], 4))
    assert all(check.case == newcomer for check in more - few)
    assert len(few - more) <= len(more - few) <= len(EVERY_RELATION)
    assert set(drawn(cases[::-1], 4)) == few
    assert drawn(cases, 0) == []
