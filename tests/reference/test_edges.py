"""Calls that ask for nothing, or for what cannot be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import attend
from tests.reference.comparing import SUMS, of
from tests.reference.problems import random_problem
from tests.reference.strategies import modest


@modest
@given(q_heads=st.integers(1, 40), kv_heads=st.integers(1, 12))
def test_heads_must_divide(q_heads: int, kv_heads: int) -> None:
    arguments = random_problem((1,), (3,), q_heads=q_heads, kv_heads=kv_heads).paged()
    if q_heads % kv_heads == 0:
        attend(**arguments)
        return
    with pytest.raises(ValueError, match=f"{q_heads} query heads cannot share {kv_heads} KV heads"):
        attend(**arguments)


@pytest.mark.parametrize("lens", [((0,), (5,)), ((0, 0), (5, 0)), ((), ())], ids=["one", "two", "none"])
def test_no_query_at_all(lens: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Empty tensors of the shapes promised, for a batch without queries and for one without sequences."""
    arguments = random_problem((0,), (5,)).paged()
    query_lens, seq_lens = lens
    arguments["block_table"] = arguments["block_table"][:1].expand(len(seq_lens), -1)
    arguments["seq_lens"] = torch.tensor(seq_lens, dtype=torch.int32)
    arguments["query_start_loc"] = torch.zeros(len(query_lens) + 1, dtype=torch.int32)
    got = attend(**arguments, sums=True)
    for name in ("out", *SUMS):
        assert of(got, name).shape == ((0, 4) if name == "weighted_score" else (0, 4, 8)), name
        assert of(got, name).dtype == torch.float64
    assert got.lse.shape == (0, 4)
    assert attend(**arguments).sums is None


def test_no_gradient_is_kept() -> None:
    arguments = random_problem((2,), (5,)).paged()
    arguments["q"].requires_grad_()
    got = attend(**arguments, sums=True)
    assert not any(of(got, name).requires_grad for name in ("out", "lse", *SUMS))


@pytest.mark.parametrize("queries", [1, 3])
def test_the_queries_must_be_those_that_are_counted(queries: int) -> None:
    """As in a q padded for graph capture: what the rows past the last sequence mean is not for the oracle to guess."""
    arguments = random_problem((2,), (5,)).paged()
    arguments["q"] = arguments["q"][:1].expand(queries, -1, -1)
    with pytest.raises(ValueError, match=f"query_start_loc counts 2 queries, q has {queries}"):
        attend(**arguments)


def test_the_table_must_hold_the_longest_sequence() -> None:
    arguments = random_problem((1, 1), (3, 9)).paged(page_size=4)
    arguments["block_table"] = arguments["block_table"][:, :2]
    with pytest.raises(ValueError, match="9 keys do not fit 2 pages of 4"):
        attend(**arguments)
