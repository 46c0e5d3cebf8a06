"""Inputs: the same bits for ever, in the layouts they claim, spoiled and pointed exactly where a regime says."""

import math
from dataclasses import fields, replace
from itertools import chain

import pytest
import torch
from torch import Tensor

from conformance import inputs as inputs_module
from conformance.block_tables import FIRST_HIGH_PAGE, SPARE_PAGES
from conformance.case import LAYOUTS, PAGE_ORDERS, REGIMES, BadCase, Case
from conformance.inputs import TORCH_DTYPE, Inputs, make, queries
from conformance.manifest import cases
from conformance.rounding import CACHE_DTYPES, DTYPES

SMOKE = cases("smoke")

SHUFFLED = [case for case in SMOKE if case.page_order == "shuffled"]
"""Those whose pool has as many pages as all sequences together, and a few spare ones."""


def ids(case: Case) -> str:
    return case.id


# -- the bits ----------------------------------------------------------------------------------------------------------

DIGESTS = {
    "decode-noncausal-bf16-b2-q16-h8:2-d128-p16-kv100+260-packed-needle": "66f46a8dc7888c47",
    "decode-causal-fp16-b3-q6+0+2-h4:2-d64-p16-kv90+20+33-contiguous-needle": "685f2d0ecb7c2a22",
    "decode-noncausal-fp16-b2-q17-h4:1-d64-p32-kv160+161-packed-random": "fdd811d250714848",
    "decode-noncausal-fp16-b1-q4-h6:1-d128-p8-kv96-interleaved-random": "fbb1a8fd32864ec5",
    "decode-causal-bf16-b1-q9-h5:1-d96-p1-kv70-contiguous-random": "937263cd7b856eaa",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv150+40-w20:4-table2x-interleaved-needle": "be3a95a76ccb2daf",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-packed-poison.pages": "3ca1831e56566166",
    "decode-causal-fp16-b2-q8-h4:2-d64-p16-kv100+37-packed-poison.tails": "ed51fc6bf1723c44",
    "decode-causal-bf16-b2-q1-h4:2-d64-p16-kv700+37-contiguous-poison.garbage": "dd2480e9f4a24d0b",
    "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-softcap30-packed-random": "716d8d87106240a6",
    "decode-causal-bf16-b2-q4-h8:2-d64-p16-kv100+37-alibi-packed-random": "d82ad3b5c71f8dcb",
    "decode-causal-fp16-b2-q4-h4:2-d64-p16-kv100+37-sinks-packed-random": "b61ca169c85ab43e",
    "decode-noncausal-bf16-b2-q8-h6:2-d80-p16-kv100+37-padded-shifted": "eda69741f8287539",
    "decode-causal-fp16-b2-q8-h4:2-d72-p16-kv100+37-sliced-large": "98648c6713efae34",
    "decode-noncausal-bf16-b2-q2-h2:1-d64-p1-kv30+7-pages.high-packed-needle": "70f5161f649ffa20",
    "decode-causal-bf16-b3-q2-h4:2-d64-p16-kv100+37+60-pages.shared-packed-onehot": "e6bbdbee32e0880a",
    "decode-noncausal-fp16-b2-q3-h4:2-d64-p16-kv100+37-pages.ascending-contiguous-constant": "a2ac9c6d2d3f221a",
    "decode-noncausal-bf16-b2-q3-h4:2-d64-p16-kv100+37-table2x-packed-poison.table": "1ad69e2a5d4698ea",
    "decode-causal-bf16-b2-q3-h4:2-d64-p16-kv100+37-cache.e4m3fn-packed-needle": "96b5767db394f913",
    "decode-causal-fp16-b2-q3-h4:2-d64-p16-kv100+37-cache.e4m3fnuz-packed-poison.garbage": "b70c153e166501e9",
    "decode-causal-bf16-b2-q3-h4:2-d64-p16-kv100+37-cache.e5m2-packed-shifted": "baa22ca862410655",
    "decode-causal-bf16-b2-q3-h4:2-d64-p16-kv100+37-max4096-scale0.2-packed-needle": "573a7f740d8416e5",
    "decode-noncausal-bf16-b2-q3-h4:2-d64-p16-kv100+37-scale0.05-q.fused-packed-shifted": "1cbc38eb27ebcbf2",
}
"""A result is keyed by case and `inputs.VERSION`: if a digest changes here, raise VERSION, or old results lie."""


@pytest.mark.parametrize("name", DIGESTS)
def test_inputs_are_the_same_bits_for_ever(name: str) -> None:
    assert make(Case.parse(name)).digest()[:16] == DIGESTS[name]


def test_queries_lie_amid_nan_aligned_as_triton_compiles_for() -> None:
    q = make(Case.parse("decode-causal-bf16-b2-q3-h3:1-d72-p16-kv100+37-packed-random")).q
    before, behind = q.storage_offset(), q.storage_offset() + q.numel()
    memory = q.as_strided((q.untyped_storage().nbytes() // q.itemsize,), (1,), 0)
    assert before * q.itemsize % 16 == 0
    assert 0 < before < behind < len(memory)
    assert memory[:before].isnan().all()
    assert memory[behind:].isnan().all()
    assert q.isfinite().all()


@pytest.mark.parametrize("heads", ["4:2", "3:1"])
def test_fused_queries_lie_a_projection_apart(heads: str) -> None:
    """Where K and V of a token are, and before the first and behind the last, is NaN."""
    case = Case.parse(f"decode-causal-bf16-b2-q3-h{heads}-d72-p16-kv100+37-q.fused-packed-random")
    q = make(case).q
    width = (case.q_heads + 2 * case.kv_heads) * case.head_dim
    assert q.stride() == (width, case.head_dim, 1)
    memory = q.as_strided((q.untyped_storage().nbytes() // q.itemsize // width, width), (width, 1), 0)
    guards = (len(memory) - case.tokens) // 2
    queries = memory[guards : guards + case.tokens, : case.q_heads * case.head_dim]
    assert guards > 0
    assert torch.equal(queries.unflatten(1, q.shape[1:]), q)
    assert q.isfinite().all()
    assert int(memory.isfinite().sum()) == q.numel()
    assert q.storage_offset() * q.itemsize % 16 == 0


def test_the_golden_cases_cover_every_way_of_making_inputs() -> None:
    golden = [Case.parse(name) for name in DIGESTS]
    known = {
        "causal": (False, True),
        "dtype": DTYPES,
        "layout": LAYOUTS,
        "regime": REGIMES,
        "page_order": PAGE_ORDERS[:-1],  # a digest of a huge cache takes minutes
        "cache_dtype": ("", *CACHE_DTYPES),
        "alibi": (False, True),
        "sinks": (False, True),
        "max_keys": (0, 4096),
        "scale": (0, 0.05, 0.2),
        "fused_q": (False, True),
    }
    for field, values in known.items():
        assert {getattr(case, field) for case in golden} == set(values), field


@pytest.mark.parametrize("dtype", [*TORCH_DTYPE.values(), torch.float32], ids=str)
def test_no_quantile_lies_where_a_last_bit_could_round_it_elsewhere(dtype: torch.dtype) -> None:
    """Processors disagree about the last bits of a float64 logarithm; none may reach the rounded table."""
    uniform = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    exact = torch.special.ndtri(uniform)
    assert torch.equal(inputs_module._quantiles(dtype).double(), exact.to(dtype).double())
    doubt = 8 * torch.finfo(torch.float64).eps
    below, above = ((exact * factor).to(dtype).double() for factor in (1 - doubt, 1 + doubt))
    assert torch.equal(below, above)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_random_numbers_are_unit_normal(dtype: str) -> None:
    case = Case.parse(f"decode-noncausal-{dtype}-b2-q32-h16:8-d128-p64-kv512-packed-random")
    made = make(case)
    for made_of_them in (made.q, made.k_cache, made.v_cache):
        x, n = made_of_them.double().flatten(), made_of_them.numel()
        assert abs(float(x.mean())) < 5 / math.sqrt(n)
        assert abs(float(x.square().mean()) - 1) < 5 * math.sqrt(2 / n) + 0.002
        assert abs(float(x.pow(4).mean()) - 3) < 5 * math.sqrt(96 / n) + 0.02
        assert 3.5 < float(x.abs().max()) < 4.5  # the outermost of 65,536 quantiles is 4.3
        for quantile in (-1.5, -0.5, 0.0, 0.5, 1.5):
            share, expected = float((x < quantile).double().mean()), 0.5 * math.erfc(-quantile / math.sqrt(2))
            assert abs(share - expected) < 0.01
    heads = made.k_cache.double().transpose(1, 2)[:8].flatten(2)  # [pages, Hkv, page * D]
    together = (heads[:, :, None] * heads[:, None]).mean(-1) - torch.eye(8, dtype=torch.float64)
    assert float(together.abs().max()) < 6 * math.sqrt(2 / heads.shape[-1]), "heads are not independent"


def test_every_part_of_a_case_changes_its_bits() -> None:
    """Two cases that differ anywhere share nothing but the shape of their inputs."""
    case = Case.parse("decode-noncausal-bf16-b1-q2-h2:1-d64-p4-kv9-contiguous-random")
    others = [replace(case, causal=True), replace(case, window=(3, 3)), replace(case, alibi=True)]
    for other in others:
        equal = make(case).q == make(other).q
        assert float(equal.double().mean()) < 0.1


def test_making_inputs_twice_gives_separate_memory() -> None:
    first, second = make(SMOKE[0]), make(SMOKE[0])
    before = second.digest()
    for field in fields(Inputs):
        if isinstance(tensor := getattr(first, field.name), Tensor):
            tensor.fill_(1)
    assert second.digest() == before == make(SMOKE[0]).digest()


@pytest.mark.parametrize("name", [field.name for field in fields(Inputs)])
def test_a_digest_sees_every_argument(name: str) -> None:
    case = Case.parse("mixed-causal-bf16-b2-q1+3-h2:1-d64-p4-kv9+5-alibi-sinks-cache.e5m2-q.e5m2-t1-packed-random")
    made = make(case)
    value = getattr(made, name)
    if isinstance(value, Tensor):
        value[(0,) * value.dim()] = 7
    else:
        made = replace(made, **{name: value * 2})
    assert made.digest() != make(case).digest()


@pytest.mark.parametrize("case", SHUFFLED, ids=ids)
def test_arguments_have_the_shapes_and_dtypes_that_kernels_take(case: Case) -> None:
    made, dtype, stored = make(case), TORCH_DTYPE[case.dtype], TORCH_DTYPE[case.cache_dtype or case.dtype]
    pool = sum(case.pages) + SPARE_PAGES
    expected = {
        "q": (TORCH_DTYPE[case.q_dtype or case.dtype], (case.tokens, case.q_heads, case.head_dim)),
        "k_cache": (stored, (pool, case.page_size, case.kv_heads, case.head_dim)),
        "v_cache": (stored, (pool, case.page_size, case.kv_heads, case.head_dim)),
        "block_table": (torch.int32, (case.batch, max(1, *case.pages) * case.table_width)),
        "seq_lens": (torch.int32, (case.batch,)),
        "query_start_loc": (torch.int32, (case.batch + 1,)),
        "alibi_slopes": (torch.float32, (case.q_heads,)) if case.alibi else None,
        "sinks": (torch.float32, (case.q_heads,)) if case.sinks else None,
        "k_descale": (torch.float32, (case.batch, case.kv_heads)) if case.cache_dtype else None,
        "v_descale": (torch.float32, (case.batch, case.kv_heads)) if case.cache_dtype else None,
        "q_descale": (torch.float32, (case.batch, case.kv_heads)) if case.q_dtype else None,
        "key": None if case.step == "decode" else (dtype, (case.tokens, case.kv_heads, case.head_dim)),
        "value": None if case.step == "decode" else (dtype, (case.tokens, case.kv_heads, case.head_dim)),
    }
    for name, want in expected.items():
        tensor = getattr(made, name)
        assert (tensor if tensor is None else (tensor.dtype, tuple(tensor.shape))) == want, name
    assert made.seq_lens.tolist() == list(case.seq_lens)
    assert made.query_start_loc.tolist() == list(case.query_starts)
    assert made.scale == (case.scale or 1 / math.sqrt(case.head_dim))


@pytest.mark.parametrize("case", [case for case in SHUFFLED if case.regime != "poison.table"], ids=ids)
def test_every_page_has_one_owner_and_page_0_none(case: Case) -> None:
    table = make(case).block_table
    owned = [page for row, pages in zip(table, case.pages, strict=True) for page in row[:pages].tolist()]
    assert len(set(owned)) == len(owned)
    assert all(0 < page < sum(case.pages) + SPARE_PAGES for page in owned)
    assert all(not row[pages:].any() for row, pages in zip(table, case.pages, strict=True))


LAYOUT_OF_PAGES = "b4-q1-h1:1-d16-p4-kv40+3+22+0"


def pages_of(order: str) -> list[list[int]]:
    """The pages of each sequence."""
    case = Case.parse(f"decode-noncausal-bf16-{LAYOUT_OF_PAGES}-{order}packed-random")
    return [row[:pages] for row, pages in zip(make(case).block_table.tolist(), case.pages, strict=True)]


def test_ascending_pages_follow_one_another() -> None:
    assert list(chain(*pages_of("pages.ascending-"))) == list(range(1, 18))


def test_shared_pages_are_those_of_a_common_prefix() -> None:
    """Half of the pages that the shortest sequence with a full page fills: here 2 of 5; the rest has one owner each."""
    first, short, third, empty = pages_of("pages.shared-")
    assert first[:2] == third[:2]
    own = [*first, *short, *third[2:]]
    assert len(set(own)) == len(own) == 15
    assert empty == []


def test_shared_pages_need_two_sequences_with_a_full_page() -> None:
    with pytest.raises(BadCase, match="no two sequences have a full page that they could share"):
        Case.parse("decode-noncausal-bf16-b2-q1-h1:1-d16-p4-kv40+3-pages.shared-packed-random")


def test_high_pages_are_those_that_16_bits_cannot_name() -> None:
    high = list(chain(*pages_of("pages.high-")))
    assert len(set(high)) == len(high) == 17
    assert min(high) > FIRST_HIGH_PAGE == 2**16


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_huge_caches_have_elements_that_31_bits_cannot_count(layout: str) -> None:
    """Memory that is never written is never taken, so that this costs nothing."""
    case = Case.parse(f"decode-noncausal-bf16-b1-q1-h4:4-d128-p16-kv40-pages.huge-{layout}-random")
    made = make(case)
    for page in made.block_table[0, :3].tolist():
        assert made.k_cache.stride(0) * page > 2**31
    assert made.k_cache.stride(0) * len(made.k_cache) < 2**31 * 1.01


def test_pages_are_shuffled() -> None:
    case = Case.parse("decode-noncausal-bf16-b2-q1-h1:1-d16-p1-kv300-packed-random")
    order = make(case).block_table.flatten()
    assert float((order.diff() == 1).double().mean()) < 0.05


@pytest.mark.parametrize("heads", [8, 16, 6, 12, 20, 40])
def test_alibi_slopes_are_the_published_ones(heads: int) -> None:
    """The float32 nearest to each: a float32 power of two differs in its last bit between processors."""
    made = make(Case.parse(f"decode-causal-bf16-b1-q1-h{heads}:1-d16-p4-kv9-alibi-packed-random"))
    exact = torch.tensor([2.0 ** (-8 * i / heads) for i in range(1, heads + 1)], dtype=torch.float64)
    assert made.alibi_slopes is not None
    assert made.alibi_slopes.tolist() == exact.float().tolist()


# -- moving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_moving_keeps_strides_and_sharing(layout: str, device: str) -> None:
    """`meta` stands for a device of its own: there nothing can be shared by accident."""
    case = Case.parse(f"decode-causal-bf16-b2-q2-h3:3-d16-p4-kv9+6-alibi-sinks-{layout}-random")
    made = make(case)
    moved = made.to(torch.device(device))
    for field in fields(Inputs):
        here, there = getattr(made, field.name), getattr(moved, field.name)
        if not isinstance(here, Tensor):
            assert here == there
            continue
        assert there.device.type == device
        assert (here.dtype, here.shape, here.stride()) == (there.dtype, there.shape, there.stride())
        assert here.storage_offset() == there.storage_offset()
    one_memory = moved.k_cache.untyped_storage()._cdata == moved.v_cache.untyped_storage()._cdata
    assert one_memory == (layout in ("packed", "interleaved"))
    assert moved.q.untyped_storage()._cdata != moved.k_cache.untyped_storage()._cdata
    if device == "cpu":
        assert moved.digest() == made.digest()


def test_moving_keeps_none() -> None:
    moved = make(SMOKE[0]).to(torch.device("cpu"))
    assert moved.alibi_slopes is None
    assert moved.sinks is None


# -- the new tokens of a step ------------------------------------------------------------------------------------------

STEPS = [
    Case.parse(text)
    for text in (
        "prefill-causal-bf16-b2-q100+37-h8:2-d64-p16-kv100+37-t1-packed-random",
        "extend-noncausal-fp16-b2-q20+33-h4:2-d64-p16-kv100+150-t8-chunk64-interleaved-needle",
        "mixed-causal-bf16-b4-q8+20+9+33-h6:2-d32-p16-kv100+150+9+33-q.fused-t8-packed-random",
        "extend-causal-bf16-b2-q20+33-h6:3-d64-p16-kv100+150-cache.e4m3fn-descale.head-t1-packed-random",
        "extend-causal-bf16-b1-q20-h6:3-d64-p16-kv100-cache.e4m3fn-q.fused-q.e4m3fn-t1-packed-shifted",
    )
]


@pytest.mark.parametrize("case", STEPS, ids=ids)
def test_new_tokens_are_what_the_caches_hold_of_them(case: Case) -> None:
    made = make(case)
    assert made.key is not None
    assert made.value is not None
    for b, (m, n, kind) in enumerate(zip(case.query_lens, case.seq_lens, case.kinds, strict=True)):
        rows = slice(case.query_starts[b], case.query_starts[b] + m)
        for new, cache, descale in (
            (made.key, made.k_cache, made.k_descale),
            (made.value, made.v_cache, made.v_descale),
        ):
            if kind == "decode":
                assert new[rows].isnan().all()
                continue
            held = cache[made.block_table[b].long()].flatten(0, 1)[n - m : n].double()
            held *= 1 if descale is None else descale[b][:, None].double()
            assert torch.equal(new[rows].double(), held)


def test_new_tokens_are_heads_of_the_fused_projection() -> None:
    """As vLLM has them: q, then K, then V, in one row a token."""
    made = make(STEPS[2])
    q, key, value = made.q, made.key, made.value
    assert key is not None
    assert value is not None
    assert q.stride() == key.stride() == value.stride() == ((6 + 2 + 2) * 32, 32, 1)
    assert key.data_ptr() - q.data_ptr() == 6 * 32 * 2
    assert value.data_ptr() - key.data_ptr() == 2 * 32 * 2


def test_a_cache_whose_heads_have_descales_of_their_own_stores_the_same_values() -> None:
    one, other = (
        make(Case.parse(f"decode-causal-bf16-b1-q2-h6:3-d64-p16-kv40-cache.e5m2-{word}packed-constant"))
        for word in ("", "descale.head-")
    )
    assert one.k_descale is not None
    assert other.k_descale is not None
    assert (other.k_descale / one.k_descale).tolist() == [[1.0, 2.0, 4.0]]
    # Seeds differ, since ids do; but a constant value is one number a head, dequantised, in either.
    assert other.v_descale is not None
    values = other.v_cache.double() * other.v_descale[0].double()[:, None]
    rows = values[other.block_table[0].long()].flatten(0, 1)[:40]
    assert torch.equal(rows, rows[:1].expand_as(rows))


def test_each_sequence_s_descales_are_those_of_what_it_stores() -> None:
    """Dequantised by its own descale, every sequence has unit normal queries, keys and values; by another's, none."""
    case = Case.parse(
        "decode-noncausal-bf16-b3-q8-h4:2-d64-p16-kv150-cache.e4m3fnuz-q.e4m3fnuz-descale.head-descale.seq-packed-random"
    )
    made = make(case)
    assert made.k_descale is not None
    assert made.v_descale is not None
    assert made.q_descale is not None
    for descale, one in ((made.k_descale, 0.25), (made.v_descale, 0.5)):
        assert torch.equal(descale, one * torch.tensor([[1.0], [4.0], [2.0]]) * torch.tensor([1.0, 2.0]))
    assert made.q_descale.tolist() == [[2.0] * 2, [8.0] * 2, [4.0] * 2]
    spread = queries(case, made).double().unflatten(0, (3, 8)).std((1, 2, 3))
    torch.testing.assert_close(spread, torch.ones(3).double(), rtol=0.15, atol=0)
    for stored, descale in ((made.k_cache, made.k_descale), (made.v_cache, made.v_descale)):
        for b, row in enumerate(made.block_table.long()):
            held = stored[row].flatten(0, 1)[:150].double() * descale[b].double()[:, None]
            torch.testing.assert_close(held.std((0, 2)), torch.ones(2).double(), rtol=0.1, atol=0)


def test_queries_in_a_smaller_dtype_are_exact_in_the_output_s() -> None:
    case = Case.parse("decode-causal-bf16-b2-q3-h4:2-d64-p16-kv40+30-q.e4m3fnuz-packed-random")
    made = make(case)
    assert made.q.dtype == torch.float8_e4m3fnuz
    assert made.q_descale is not None
    exact = queries(case, made)
    assert exact.dtype == torch.bfloat16
    assert torch.equal(exact.double(), made.q.double() * float(made.q_descale[0, 0]))
    assert 0.8 < float(exact.double().std()) < 1.2


def test_queries_too_large_for_their_dtype_become_its_largest() -> None:
    """A small scale makes shifted logits of large queries."""
    case = Case.parse("decode-noncausal-bf16-b1-q6-h2:2-d32-p16-kv33-scale0.01-q.e4m3fnuz-packed-shifted")
    assert float(make(case).q.float().abs().max()) == 240.0
