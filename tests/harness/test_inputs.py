"""Inputs: the same bits for ever, in the layouts they claim, spoiled and pointed exactly where a regime says."""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from conformance import inputs as inputs_module
from conformance.case import LAYOUTS, Case
from conformance.inputs import GARBAGE, SPARE_PAGES, TORCH_DTYPE, Inputs, make
from conformance.manifest import cases

SMOKE = cases("smoke")


def ids(case: Case) -> str:
    return case.id


# -- the bits ----------------------------------------------------------------------------------------------------------

DIGESTS = {
    "decode-noncausal-bf16-b2-q16-h8:2-d128-p16-kv100+260-packed-needle": "7942b86bd0ebc596",
    "decode-causal-fp16-b3-q6+0+2-h4:2-d64-p16-kv90+20+33-contiguous-needle": "7d18571168f80303",
    "decode-noncausal-fp16-b2-q17-h4:1-d64-p32-kv160+161-packed-random": "1f1cb98d3f25ee8f",
    "decode-noncausal-fp16-b1-q4-h6:1-d128-p8-kv96-interleaved-random": "d5a4a5cbce13d1fb",
    "decode-causal-bf16-b1-q9-h5:1-d96-p1-kv70-contiguous-random": "b95aebbd43b0be01",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv150+40-w20:4-table2x-interleaved-needle": "56e7d159b4415b75",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-packed-poison.pages": "bf284ff311efe578",
    "decode-causal-fp16-b2-q8-h4:2-d64-p16-kv100+37-packed-poison.tails": "d7f034aecc53db89",
    "decode-causal-bf16-b2-q1-h4:2-d64-p16-kv700+37-contiguous-poison.garbage": "45877da5fa8499a0",
    "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-softcap30-packed-random": "e08ef926ac7b1016",
    "decode-causal-bf16-b2-q4-h8:2-d64-p16-kv100+37-alibi-packed-random": "56288ce914e89506",
    "decode-causal-fp16-b2-q4-h4:2-d64-p16-kv100+37-sinks-packed-random": "0ea9947e158385bd",
}
"""A result is keyed by case and `inputs.VERSION`: if a digest changes here, raise VERSION, or old results lie."""


@pytest.mark.parametrize("name", DIGESTS)
def test_inputs_are_the_same_bits_for_ever(name: str) -> None:
    assert make(Case.parse(name)).digest()[:16] == DIGESTS[name]


def test_the_golden_cases_cover_every_way_of_making_inputs() -> None:
    golden = [Case.parse(name) for name in DIGESTS]
    for field in ("causal", "dtype", "layout", "regime", "alibi", "sinks"):
        assert {getattr(case, field) for case in golden} == {getattr(case, field) for case in SMOKE} | (
            set(LAYOUTS) if field == "layout" else set()
        )


@pytest.mark.parametrize("dtype", [*TORCH_DTYPE.values(), torch.float32], ids=str)
def test_no_quantile_lies_where_a_last_bit_could_round_it_elsewhere(dtype: torch.dtype) -> None:
    """Processors disagree about the last bits of a float64 logarithm; none may reach the rounded table."""
    uniform = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    exact = torch.special.ndtri(uniform)
    assert torch.equal(inputs_module._quantiles(dtype), exact.to(dtype))
    doubt = 8 * torch.finfo(torch.float64).eps
    assert torch.equal((exact * (1 - doubt)).to(dtype), (exact * (1 + doubt)).to(dtype))


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
    case = Case.parse("decode-causal-bf16-b2-q1-h2:1-d64-p4-kv9+3-alibi-sinks-packed-random")
    made = make(case)
    value = getattr(made, name)
    if isinstance(value, Tensor):
        value[(0,) * value.dim()] += 1
    else:
        made = replace(made, **{name: value * 2})
    assert made.digest() != make(case).digest()


@pytest.mark.parametrize("case", SMOKE, ids=ids)
def test_arguments_have_the_shapes_and_dtypes_that_kernels_take(case: Case) -> None:
    made, dtype = make(case), TORCH_DTYPE[case.dtype]
    pool = sum(case.pages) + SPARE_PAGES
    expected = {
        "q": (dtype, (case.tokens, case.q_heads, case.head_dim)),
        "k_cache": (dtype, (pool, case.page_size, case.kv_heads, case.head_dim)),
        "v_cache": (dtype, (pool, case.page_size, case.kv_heads, case.head_dim)),
        "block_table": (torch.int32, (case.batch, max(1, *case.pages) * case.table_width)),
        "seq_lens": (torch.int32, (case.batch,)),
        "query_start_loc": (torch.int32, (case.batch + 1,)),
        "alibi_slopes": (torch.float32, (case.q_heads,)) if case.alibi else None,
        "sinks": (torch.float32, (case.q_heads,)) if case.sinks else None,
    }
    for name, want in expected.items():
        tensor = getattr(made, name)
        assert (tensor if tensor is None else (tensor.dtype, tuple(tensor.shape))) == want, name
    assert made.seq_lens.tolist() == list(case.seq_lens)
    assert made.query_start_loc.tolist() == list(case.query_starts)
    assert made.scale == case.head_dim**-0.5


@pytest.mark.parametrize("case", SMOKE, ids=ids)
def test_every_page_has_one_owner_and_page_0_none(case: Case) -> None:
    table = make(case).block_table
    owned = [page for row, pages in zip(table, case.pages, strict=True) for page in row[:pages].tolist()]
    assert len(set(owned)) == len(owned)
    assert all(0 < page < sum(case.pages) + SPARE_PAGES for page in owned)
    assert all(not row[pages:].any() for row, pages in zip(table, case.pages, strict=True))


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


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def before_layout(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What `make` lays out, in plain memory."""
    seen: dict[str, Tensor] = {}
    lay_out = inputs_module._lay_out

    def spy(layout: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        seen.update(k=k.clone(), v=v.clone())
        return lay_out(layout, k, v)

    monkeypatch.setattr(inputs_module, "_lay_out", spy)
    return seen


P, H, D = 4, 3, 16  # page size, KV heads, head dimension: all different, so that no two strides are alike by chance

STRIDES = {
    "contiguous": (P * H * D, H * D, D, 1),
    "packed": (H * P * 2 * D, 2 * D, P * 2 * D, 1),
    "interleaved": (2 * P * H * D, H * D, D, 1),
}
"""Of [block, row, KV head, dim], in elements."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_strides_and_no_value(layout: str, before_layout: dict[str, Tensor]) -> None:
    case = Case.parse(f"decode-noncausal-bf16-b2-q2-h{H}:{H}-d{D}-p{P}-kv9+6-{layout}-random")
    made = make(case)
    assert torch.equal(made.k_cache, before_layout["k"])
    assert torch.equal(made.v_cache, before_layout["v"])
    assert made.k_cache.stride() == made.v_cache.stride() == STRIDES[layout]
    shared = made.k_cache.untyped_storage().data_ptr() == made.v_cache.untyped_storage().data_ptr()
    assert shared == (layout != "contiguous")
    apart = {"packed": D, "interleaved": P * H * D}.get(layout)
    if apart is not None:
        assert not made.k_cache.is_contiguous()
        assert not made.v_cache.is_contiguous()
        assert made.v_cache.storage_offset() - made.k_cache.storage_offset() == apart


def test_every_layout_has_its_strides_written_down() -> None:
    assert set(STRIDES) == set(LAYOUTS)


# -- moving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_moving_keeps_strides_and_sharing(layout: str, device: str) -> None:
    """`meta` stands for a device of its own: there nothing can be shared by accident."""
    case = Case.parse(f"decode-causal-bf16-b2-q2-h{H}:{H}-d{D}-p{P}-kv9+6-alibi-sinks-{layout}-random")
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
    assert one_memory == (layout != "contiguous")
    assert moved.q.untyped_storage()._cdata != moved.k_cache.untyped_storage()._cdata
    if device == "cpu":
        assert moved.digest() == made.digest()


def test_moving_keeps_none() -> None:
    moved = make(SMOKE[0]).to(torch.device("cpu"))
    assert moved.alibi_slopes is None
    assert moved.sinks is None


# -- poison ------------------------------------------------------------------------------------------------------------

POISONED = [case for case in SMOKE if case.regime.startswith("poison")] + [
    Case.parse(f"decode-noncausal-{dtype}-b5-q2-h4:2-d16-p8-kv0+16+17+7+1-{rest}")
    for dtype in ("bf16", "fp16")
    for rest in (
        "table3x-packed-poison.pages",
        "contiguous-poison.pages",
        "interleaved-poison.tails",
        "contiguous-poison.garbage",
        "table2x-packed-poison.garbage",
    )
]


@dataclass(frozen=True)
class Rows:
    """Bool [num_blocks, block_size]: which rows of the pool hold a key, and which are the tail of a last page."""

    keys: Tensor
    tails: Tensor

    @classmethod
    def of(cls, case: Case, block_table: Tensor) -> "Rows":
        keys = torch.zeros(sum(case.pages) + SPARE_PAGES, case.page_size, dtype=torch.bool)
        tails = torch.zeros_like(keys)
        for row, n, pages in zip(block_table.tolist(), case.seq_lens, case.pages, strict=True):
            for j in range(pages * case.page_size):
                where = row[j // case.page_size], j % case.page_size
                (keys if j < n else tails)[where] = True
        return cls(keys, tails)


@pytest.mark.parametrize("case", POISONED, ids=ids)
def test_poison_spoils_what_it_names_and_nothing_else(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(case)
    monkeypatch.setattr(inputs_module, "_poison", lambda *_: None)
    clean = make(case)
    rows = Rows.of(case, made.block_table)
    assert not bool((rows.keys & rows.tails).any())
    spoiled = ~(rows.keys | rows.tails) if case.regime == "poison.pages" else rows.tails
    assert bool(spoiled.any())
    for name in ("k_cache", "v_cache"):
        got, want = getattr(made, name), getattr(clean, name)
        assert torch.equal(got[~spoiled], want[~spoiled])
        assert bool(want.isfinite().all())
        if case.regime == "poison.garbage":
            assert bool((got[spoiled].double().abs() > GARBAGE * 0.99).all())
            assert bool(got.isfinite().all())
        else:
            assert bool(got[spoiled].isnan().all())
    for name in ("q", "block_table", "seq_lens", "query_start_loc"):
        assert torch.equal(getattr(made, name), getattr(clean, name))


@pytest.mark.parametrize("case", [c for c in POISONED if c.regime == "poison.pages"], ids=ids)
def test_unused_table_entries_name_a_poisoned_page(case: Case) -> None:
    made = make(case)
    for row, pages in zip(made.block_table, case.pages, strict=True):
        unused = row[pages:].long()
        assert bool(made.k_cache[unused].isnan().all())
        assert bool(made.v_cache[unused].isnan().all())


def test_garbage_is_finite_in_every_dtype() -> None:
    for dtype in TORCH_DTYPE.values():
        assert torch.tensor(GARBAGE, dtype=dtype).isfinite()
        assert torch.finfo(dtype).max > GARBAGE


# -- needles -----------------------------------------------------------------------------------------------------------

NEEDLES = [case for case in SMOKE if case.regime == "needle"]


def readable_scores(case: Case, made: Inputs, b: int) -> Tensor:
    """Scores of a sequence's queries with every row on its pages, stale rows included: float64 [m, Hq, rows]."""
    table = made.block_table[b, : case.pages[b]].long()
    keys = made.k_cache[table].flatten(0, 1).double().repeat_interleave(case.gqa_ratio, 1)  # [rows, Hq, D]
    q = made.q[case.query_starts[b] : case.query_starts[b + 1]].double()
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
    assert min(weights) > 0.99


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
def test_the_values_under_needles_are_distinct(case: Case) -> None:
    """Or the output would not name the key that was read."""
    made = make(case)
    rows = Rows.of(case, made.block_table)
    values = made.v_cache[rows.keys | rows.tails]  # [rows, Hkv, D]
    assert len(values.flatten(1).unique(dim=0)) == len(values)
