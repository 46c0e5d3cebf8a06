"""The oracle against one key at a time: every argument by itself, then all at once at random."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import Attention, attend
from tests.reference.comparing import TOLERANCE, assert_same
from tests.reference.problems import FLOAT8, LAYOUTS, Problem, random_problem
from tests.reference.strategies import modest, problems

RAGGED: dict[str, Any] = {"query_lens": (3, 0, 1, 4, 2), "seq_lens": (17, 9, 33, 4, 0)}
"""Full last pages and partial ones, a sequence without queries, as many keys as queries, no key at all."""

causal_or_not = pytest.mark.parametrize("causal", [True, False], ids=["causal", "noncausal"])


def check(problem: Problem, tile_bytes: int | None = None, **paging: Any) -> Attention:
    """Out, lse and every sum."""
    got = problem.attend(sums=True, tile_bytes=tile_bytes, **paging)
    assert_same(got, problem.naive(**paging))
    return got


@causal_or_not
@pytest.mark.parametrize("kv_heads", [1, 2, 3])
@pytest.mark.parametrize("ratio", range(1, 9))
def test_query_heads_share_kv_heads(ratio: int, kv_heads: int, causal: bool) -> None:
    check(random_problem((2, 1), (9, 5), q_heads=ratio * kv_heads, kv_heads=kv_heads, head_dim=4, causal=causal))


@causal_or_not
@pytest.mark.parametrize("page_size", [1, 2, 3, 16, 48, 1024])
def test_page_sizes(page_size: int, causal: bool) -> None:
    check(random_problem(**RAGGED, causal=causal), page_size=page_size)


@causal_or_not
@pytest.mark.parametrize(
    "window",
    [(0, 0), (0, -1), (-1, 0), (3, -1), (-1, 3), (3, 2), (2, 5), (16, 0), (100, -1), (-1, 100), (100, 100), (-7, -7)],
    ids=str,
)
def test_windows(window: tuple[int, int], causal: bool) -> None:
    """Page by page too, where most tiles are cut by nothing but the window."""
    for tile_bytes in (None, 1):
        check(random_problem(**RAGGED, causal=causal, window=window), tile_bytes)


@causal_or_not
@pytest.mark.parametrize("tile_bytes", [1, None], ids=["page by page", "at once"])
@pytest.mark.parametrize(
    "features",
    [
        {"softcap": 0.7},
        {"softcap": 30.0},
        {"alibi": True},
        {"sinks": True},
        {"descale": True},
        {"softcap": 2.0, "alibi": True},
        {"alibi": True, "sinks": True, "window": (5, 2)},
        {"softcap": 2.0, "alibi": True, "sinks": True, "descale": True, "window": (9, 1), "scale": 0.9},
    ],
    ids=" ".join,
)
def test_features(features: dict[str, Any], tile_bytes: int | None, causal: bool) -> None:
    check(random_problem(**RAGGED, causal=causal, **features), tile_bytes)


@causal_or_not
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, causal: bool) -> None:
    check(random_problem(**RAGGED, causal=causal), layout=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, *FLOAT8], ids=str)
def test_stored_values_are_exact(dtype: torch.dtype) -> None:
    check(random_problem(**RAGGED, dtype=dtype, descale=dtype in FLOAT8))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_metadata_of_either_width(dtype: torch.dtype) -> None:
    problem = random_problem(**RAGGED)
    arguments = problem.paged()
    for name in ("block_table", "seq_lens", "query_start_loc"):
        arguments[name] = arguments[name].to(dtype)
    assert_same(attend(**arguments, sums=True), problem.naive())


@causal_or_not
@pytest.mark.parametrize("sinks", [False, True], ids=["no sink", "sink"])
@pytest.mark.parametrize("window", [(-1, -1), (2, -1), (-1, 0), (1, 1)], ids=str)
def test_rows_that_see_no_key(window: tuple[int, int], sinks: bool, causal: bool) -> None:
    """More queries than keys, and no key at all: output 0, lse -inf or the sink, and every sum 0."""
    problem = random_problem((5, 3, 2), (2, 0, 7), causal=causal, window=window, sinks=sinks)
    got = check(problem, page_size=2)
    blind = ~problem.sees_a_key()
    assert blind.any()
    assert (got.out[blind] == 0).all()
    nothing = torch.full((4,), -torch.inf) if problem.sinks is None else problem.sinks
    assert torch.equal(got.lse[blind], nothing.double().expand(int(blind.sum()), -1))


def test_no_sequence_has_keys() -> None:
    check(random_problem((2, 1), (0, 0)))
    check(random_problem((2, 1), (0, 0), sinks=True))


def test_a_sink_of_no_weight_is_none() -> None:
    problem = random_problem((2, 1), (5, 0))
    assert_same(replace(problem, sinks=torch.full((4,), -torch.inf)).attend(sums=True), problem.attend(sums=True))


def test_lse_is_natural() -> None:
    """Eight keys of score 0 have the denominator 8."""
    problem = random_problem((1,), (8,))
    zero = replace(problem, k=tuple(torch.zeros_like(k) for k in problem.k))
    torch.testing.assert_close(zero.attend().lse, torch.full((1, 4), 8.0).double().log(), rtol=TOLERANCE, atol=0)


@modest
@given(
    problem=problems(), page_size=st.sampled_from([1, 2, 3, 5, 16, 48]), layout=st.sampled_from(LAYOUTS), tile=st.data()
)
def test_everything_at_once(problem: Problem, page_size: int, layout: str, tile: st.DataObject) -> None:
    tile_bytes = tile.draw(st.sampled_from([1, 3_000, 30_000, None]), "tile_bytes")
    check(problem, tile_bytes, page_size=page_size, layout=layout)
