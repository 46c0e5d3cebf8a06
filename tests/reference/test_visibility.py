"""Which key a query sees, exhaustively over small shapes."""

import itertools

import pytest
import torch

from reference.visibility import diagonal, visible
from tests.reference.naive import sees

SHAPES = list(itertools.product(range(5), range(7)))  # m queries, n keys
QUERIES, KEYS = (torch.tensor(x) for x in zip(*SHAPES, strict=True))
SIDES = (-1, 0, 1, 2, 3, 6, 9)


def test_diagonal_is_bottom_right_aligned() -> None:
    """The last query stands on the last key; with more queries than keys the first ones stand before all keys."""
    stand = diagonal(QUERIES, KEYS, 4)
    assert stand.dtype == torch.int64
    for (m, n), row in zip(SHAPES, stand.tolist(), strict=True):
        assert row == [n - m, n - m + 1, n - m + 2, n - m + 3]
        if m:
            assert row[m - 1] == n - 1


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "noncausal"])
@pytest.mark.parametrize("left", SIDES)
@pytest.mark.parametrize("right", SIDES)
def test_visible(left: int, right: int, causal: bool) -> None:
    """Also of keys that start in the middle, as a tile of them does."""
    for keys in (torch.arange(8), torch.arange(3, 6)):
        seen = visible(diagonal(QUERIES, KEYS, 4), KEYS, keys, causal=causal, window=(left, right))
        assert seen.shape == (len(SHAPES), 4, len(keys))
        assert seen.dtype == torch.bool
        for (m, n), got in zip(SHAPES, seen.tolist(), strict=True):
            for i in range(m):
                want = [sees(i, j, m, n, causal=causal, window=(left, right)) for j in keys.tolist()]
                assert got[i] == want, f"query {i} of {m}, {n} keys"


def test_no_window_unless_asked() -> None:
    seen = visible(torch.tensor([[3]]), torch.tensor([6]), torch.arange(8), causal=False)
    assert seen.flatten().tolist() == [True] * 6 + [False] * 2
