"""Regimes: what each does to the values, where exactly, and that it makes the defect visible that it is there for."""

import math

import pytest
import torch

from conformance import regimes
from conformance.block_tables import FIRST_HIGH_PAGE, OUT_OF_RANGE
from conformance.case import REGIMES, Case
from conformance.execute import exact
from conformance.inputs import K_DESCALE, TORCH_DTYPE, V_DESCALE, Inputs, make
from conformance.manifest import cases
from tests.harness.pages import Rows

SMOKE = cases("smoke")


def ids(case: Case) -> str:
    return case.id


def before_regime(case: Case, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """The random values that the case's regime started from."""
    with monkeypatch.context() as patch:
        patch.setattr(regimes, "apply", lambda *_: None)
        return make(case)


# -- poison ------------------------------------------------------------------------------------------------------------
POISONED = [case for case in SMOKE if case.regime in ("poison.pages", "poison.tails", "poison.garbage")] + [
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


@pytest.mark.parametrize("case", POISONED, ids=ids)
def test_poison_spoils_what_it_names_and_nothing_else(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    made, clean = make(case), before_regime(case, monkeypatch)
    rows = Rows.of(case, made)
    assert not bool((rows.keys & rows.tails).any())
    spoiled = ~(rows.keys | rows.tails) if case.regime == "poison.pages" else rows.tails
    assert bool(spoiled.any())
    for name in ("k_cache", "v_cache"):
        got, want = getattr(made, name), getattr(clean, name)
        assert torch.equal(got[~spoiled], want[~spoiled])
        assert bool(want.isfinite().all())
        if case.regime == "poison.garbage":
            assert bool((got[spoiled].double().abs() > regimes.GARBAGE * 0.99).all())
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


@pytest.mark.parametrize("dtype", TORCH_DTYPE.values(), ids=str)
def test_garbage_is_huge_and_finite_in_every_dtype(dtype: torch.dtype) -> None:
    stored = torch.tensor(regimes.garbage(dtype)).to(dtype).float()
    assert stored.isfinite()
    assert stored > 30 * torch.special.ndtri(torch.tensor(1 - 1e-5))


@pytest.mark.parametrize("rest", ["contiguous", "pages.high-packed", "table3x-packed"])
def test_a_poisoned_table_is_out_of_range_past_each_end_and_right_before(rest: str) -> None:
    name = f"decode-noncausal-bf16-b5-q2-h4:2-d16-p8-kv0+16+17+7+1-{rest}"
    made, plain = make(Case.parse(f"{name}-poison.table")), make(Case.parse(f"{name}-random"))
    blocks = len(made.k_cache)
    for row, other, n in zip(
        made.block_table.tolist(), plain.block_table.tolist(), made.seq_lens.tolist(), strict=True
    ):
        pages = -(-n // 8)
        first = FIRST_HIGH_PAGE if "high" in rest else 0
        assert all(first < page < blocks for page in row[:pages])
        assert set(row[pages:]) <= set(OUT_OF_RANGE)
        assert all(page == first for page in other[pages:])
    assert set(OUT_OF_RANGE) <= set(made.block_table.flatten().tolist())
    assert not any(0 <= page < blocks for page in OUT_OF_RANGE)


# -- values ------------------------------------------------------------------------------------------------------------

SHAPE = "b3-q5-h6:2-d64-p16-kv40+0+33"


@pytest.mark.parametrize("cache", ["", "cache.e4m3fn-"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_shifted_logits_differ_by_the_same_offset_for_all_keys_of_a_query(dtype: str, cache: str) -> None:
    """Softmax cancels it: without the shared column the answer is the same. Exponentials alone would overflow."""
    case = Case.parse(f"decode-causal-{dtype}-{SHAPE}-{cache}packed-shifted")
    made = make(case)
    k = made.k_cache.float() * (K_DESCALE if cache else 1)
    assert bool((k[..., 0] == regimes.SHIFT_KEY).all())
    offset = made.q[..., 0].double() * regimes.SHIFT_KEY * made.scale
    assert float(offset.abs().max()) <= regimes.LARGEST_SHIFT * 1.01
    assert float(offset.max()) > math.log(torch.finfo(torch.float32).max)
    assert float(offset.min()) < math.log(torch.finfo(torch.float32).smallest_normal)
    assert len(offset.unique()) > 0.9 * offset.numel()
    unshifted = make(case)
    unshifted.q[..., 0] = 0
    torch.testing.assert_close(exact(case, made).out, exact(case, unshifted).out, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cache", ["", "cache.e5m2-"])
def test_large_values_are_as_much_larger_as_they_can_be(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.parse(f"decode-causal-fp16-{SHAPE}-sinks-{cache}packed-large")
    made, plain = make(case), before_regime(case, monkeypatch)
    assert made.sinks is not None
    assert plain.sinks is not None
    assert torch.equal(made.q, plain.q * 10)
    assert torch.equal(made.sinks, plain.sinks * 10)
    assert torch.equal(made.k_cache.float(), plain.k_cache.float())
    assert torch.equal(made.v_cache.float(), plain.v_cache.float() * (1 if cache else 256))
    out = exact(case, made).out
    assert float(out.abs().max()) < torch.finfo(torch.float16).max
    assert cache or float(out.abs().max()) > torch.finfo(torch.float8_e4m3fn).max


@pytest.mark.parametrize("cache", ["", "cache.e5m2-"])
@pytest.mark.parametrize("order", ["", "pages.shared-"])
def test_constant_values_make_a_constant_output(order: str, cache: str) -> None:
    """And only a sequence's own keys hold them: a stale row, or another page, shows."""
    case = Case.parse(f"decode-noncausal-bf16-{SHAPE}-{order}{cache}packed-constant")
    made = make(case)
    rows = Rows.of(case, made)
    values = made.v_cache.float()[rows.keys]
    assert bool((values == values[0]).all())
    assert not torch.equal(values[0, 0], values[0, 1])
    assert bool((made.v_cache.float()[rows.tails] != values[0]).any(-1).all())
    out = exact(case, made).out
    want = (values[0] * (V_DESCALE if cache else 1)).double().repeat_interleave(case.gqa_ratio, 0)
    torch.testing.assert_close(out[:5], want.expand(5, -1, -1), rtol=1e-12, atol=0)
    torch.testing.assert_close(out[10:], want.expand(5, -1, -1), rtol=1e-12, atol=0)
    assert not out[5:10].any()
    assert not made.q[0].any()
    assert bool(made.q[1:].any(-1).all())


@pytest.mark.parametrize("cache", ["", "cache.e4m3fnuz-"])
def test_one_hot_values_make_the_output_the_weights(cache: str) -> None:
    case = Case.parse(f"decode-noncausal-bf16-{SHAPE}-{cache}packed-onehot")
    made = make(case)
    out = exact(case, made).out
    table = made.block_table[0, :3].long()
    k = (made.k_cache[table].flatten(0, 1)[:40].double() * (K_DESCALE if cache else 1)).repeat_interleave(3, 1)
    weights = (torch.einsum("mhd,nhd->mhn", made.q[:5].double(), k) * made.scale).softmax(-1)
    want = torch.zeros(5, 6, 64, dtype=torch.float64)
    for j in range(40):
        for h in range(6):
            want[:, h, (j + h // 3) % 64] += weights[:, h, j]
    torch.testing.assert_close(out[:5], want, rtol=1e-10, atol=1e-12)


def test_every_regime_has_a_test_here() -> None:
    """To be extended with REGIMES; needles have a module of their own."""
    shown = {"random", "needle", "shifted", "large", "constant", "onehot", "poison.table"}
    assert shown | {case.regime for case in POISONED} == set(REGIMES)
