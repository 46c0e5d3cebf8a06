"""Pages: whatever the strides, the table and the garbage around the keys, the same bits come out."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import Attention, attend
from reference.paging import gather_pages, readable_pages
from tests.reference.comparing import assert_identical
from tests.reference.problems import LAYOUTS, Problem, lay_out, random_problem
from tests.reference.strategies import modest, problems

LENS = ((3, 1, 2), (37, 8, 1))

PAGES = torch.arange(5 * 4 * 2 * 3, dtype=torch.float64).view(5, 4, 2, 3)
"""A cache of 5 pages of 4 keys, 2 heads of 3, whose values say where they lie."""


@pytest.fixture(scope="module")
def plain() -> Attention:
    """Nothing around the keys but zeros."""
    return random_problem(*LENS).attend(sums=True, poison=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(layout: str, plain: Attention) -> None:
    assert_identical(random_problem(*LENS).attend(sums=True, layout=layout), plain)


def test_layouts_are_what_they_say() -> None:
    """Strides in units of [D] rows of 3, [page] of 4, [Hkv] of 2: all layouts differ, none copies a value wrongly."""
    strides = {name: lay_out(PAGES, -PAGES, name)[0].stride() for name in LAYOUTS}
    assert strides["contiguous"] == (24, 6, 3, 1)
    assert strides["heads first"] == (24, 3, 12, 1)
    assert strides["packed"] == (48, 6, 24, 1)
    assert strides["interleaved"] == (48, 6, 3, 1)
    assert strides["keys innermost"] == (24, 1, 12, 4)
    assert len(set(strides.values())) == len(LAYOUTS)
    for name in LAYOUTS:
        k, v = lay_out(PAGES, -PAGES, name)
        assert torch.equal(k, PAGES), name
        assert torch.equal(v, -PAGES), name


def test_keys_and_values_may_differ_in_strides(plain: Attention) -> None:
    arguments = random_problem(*LENS).paged()
    arguments["k_cache"], _ = lay_out(arguments["k_cache"], arguments["k_cache"], "packed")
    arguments["v_cache"], _ = lay_out(arguments["v_cache"], arguments["v_cache"], "padded")
    assert_identical(attend(**arguments, sums=True), plain)


def test_queries_of_any_strides(plain: Attention) -> None:
    arguments = random_problem(*LENS).paged()
    q = arguments["q"]
    arguments["q"] = torch.cat((q, torch.full_like(q, torch.nan)), -1)[..., : q.shape[-1]]
    assert not arguments["q"].is_contiguous()
    assert_identical(attend(**arguments, sums=True), plain)
    arguments["q"] = q.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert_identical(attend(**arguments, sums=True), plain)


@pytest.mark.parametrize("tile_bytes", [1, None], ids=["page by page", "at once"])
@pytest.mark.parametrize("page_size", [1, 3, 16, 64])
def test_garbage_does_not_matter(page_size: int, tile_bytes: int | None) -> None:
    """NaN in spare pages and in tails, table entries past the end out of range: not one bit changes."""
    problem = random_problem(*LENS)
    clean = problem.attend(sums=True, page_size=page_size, tile_bytes=tile_bytes, poison=False)
    assert_identical(problem.attend(sums=True, page_size=page_size, tile_bytes=tile_bytes), clean)


@pytest.mark.parametrize("shuffle", range(8))
def test_page_zero_may_hold_garbage(shuffle: int) -> None:
    """Page 0 is NaN in some of these, a tail in others: nothing may stand in for a page that is not there."""
    problem = random_problem((1, 1), (3, 19))
    assert_identical(problem.attend(sums=True, shuffle=shuffle), problem.attend(sums=True, poison=False))


@pytest.mark.parametrize("garbage", [torch.inf, -torch.inf, torch.nan, 1e300])
def test_tails_of_any_garbage(garbage: float) -> None:
    problem = random_problem((2, 1), (6, 11))
    arguments = problem.paged()
    for name in ("k_cache", "v_cache"):
        arguments[name].nan_to_num_(nan=garbage)
    assert_identical(attend(**arguments, sums=True), problem.attend(sums=True, poison=False))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "noncausal"])
def test_keys_that_no_query_sees_may_hold_garbage(causal: bool) -> None:
    """A server recycles pages that every window has left behind; here they, and parts of others, hold NaN."""
    problem = random_problem((2, 1), (30, 9), causal=causal, window=(5, 0))
    arguments = problem.paged(page_size=4)
    for pages, seen in zip(arguments["block_table"], problem.seen(), strict=True):
        for j in (~seen.any(0)).nonzero()[:, 0].tolist():
            for name in ("k_cache", "v_cache"):
                arguments[name][pages[j // 4], j % 4] = torch.nan
    assert_identical(attend(**arguments, sums=True), problem.attend(sums=True))


@modest
@given(problem=problems(), page_size=st.integers(1, 20), shuffle=st.integers(1, 2**16))
def test_renaming_pages_changes_no_bit(problem: Problem, page_size: int, shuffle: int) -> None:
    here = problem.attend(sums=True, page_size=page_size)
    assert_identical(problem.attend(sums=True, page_size=page_size, shuffle=shuffle), here)


def test_sequences_may_share_pages() -> None:
    """A common prefix is cached once."""
    problem = random_problem((2, 1), (12, 12))
    shared = replace(problem, k=(problem.k[0], problem.k[0]), v=(problem.v[0], problem.v[0]))
    arguments = shared.paged(page_size=4)
    arguments["block_table"][1] = arguments["block_table"][0]
    assert_identical(attend(**arguments), shared.attend(page_size=4))


@modest
@given(problem=problems())
def test_inputs_are_left_alone(problem: Problem) -> None:
    arguments = problem.paged()
    before = {name: x.clone() for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    attend(**arguments, sums=True)
    for name, x in before.items():
        torch.testing.assert_close(arguments[name], x, rtol=0, atol=0, equal_nan=True)


def test_readable_pages() -> None:
    """Entries past the last page, out of range or not, give way to a page that can be looked up."""
    table = torch.tensor([[3, 1, -1, 4], [4, 2**31 - 1, -7, 2], [-1, -1, 1, 1], [1, 2, 3, 4]], dtype=torch.int32)
    got = readable_pages(table, torch.tensor([8, 1, 0, 13]), 4)
    assert got.dtype == torch.int64
    assert got.tolist() == [[3, 1, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]]


def test_gathered_rows() -> None:
    """Rows in table order, head before row; what is past the end is zero, whatever is stored there."""
    pages, past_the_end = torch.tensor([[3, 1], [4, 0]]), torch.arange(8) >= torch.tensor([[7], [2]])
    cache = PAGES.clone()
    cache[0], cache[1, 3], cache[4, 2:] = torch.nan, torch.inf, torch.nan
    got = gather_pages(cache, pages, past_the_end)
    assert got.shape == (2, 2, 8, 3)
    for b, keys in enumerate((7, 2)):
        for head in range(2):
            for j in range(8):
                want = PAGES[pages[b, j // 4], j % 4, head] if j < keys else torch.zeros(3).double()
                assert torch.equal(got[b, head, j], want), (b, head, j)


def test_gathered_rows_are_descaled_by_sequence_and_head() -> None:
    pages, descale = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[2.0, 3.0], [5.0, 7.0]]).double()
    got = gather_pages(PAGES, pages, None, descale)
    assert torch.equal(got, gather_pages(PAGES, pages, None) * descale[:, :, None, None])
    assert torch.equal(got[1, 0, 5], 5.0 * PAGES[3, 1, 0])
