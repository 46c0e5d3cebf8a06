"""Parts of a softmax, merged: as the whole, and unmoved by what stands where there is nothing to merge."""

import math

import pytest
import torch
from torch import Tensor

from conformance.dispatch.merging import Partial, merged

T, H, D = 5, 3, 8


def attention(scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [T, H, N] and values [N, D], all in float64."""
    return torch.einsum("thn,nd->thd", scores.softmax(-1), v), scores.logsumexp(-1)


@pytest.fixture
def problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(T, H, 12, generator=generator, dtype=torch.float64) * 4
    return scores, torch.randn(12, D, generator=generator, dtype=torch.float64)


def assert_whole(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], rtol: float = 1e-5) -> None:
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("cuts", [(12,), (5, 12), (1, 2, 11, 12)])
@pytest.mark.parametrize("shift", [0.0, 200.0, -200.0])
def test_parts_are_the_whole(problem: tuple[Tensor, Tensor], cuts: tuple[int, ...], shift: float) -> None:
    """At any size of the scores, where the exponential of an lse would overflow or vanish.

    An lse near 200 is known to 2^-17 in float32, and so are the weights that are told by it.
    """
    scores, v = problem[0] + shift, problem[1]
    parts = [Partial(*attention(scores[..., a:b], v[a:b])) for a, b in zip((0, *cuts), cuts, strict=False)]
    assert_whole(merged(parts), attention(scores, v), rtol=3e-4 if shift else 1e-5)


def test_a_sink_counts_once(problem: tuple[Tensor, Tensor]) -> None:
    scores, v = problem
    sinks = torch.tensor([-1.0, 3.0, 9.0], dtype=torch.float64)
    parts = [Partial(*attention(scores[..., :4], v[:4])), Partial(*attention(scores[..., 4:], v[4:]))]
    with_sink = torch.cat([scores, sinks[None, :, None].expand(T, H, 1)], -1)
    assert_whole(merged(parts, sinks), attention(with_sink, torch.cat([v, torch.zeros(1, D, dtype=v.dtype)])))


@pytest.mark.parametrize("left", [(math.nan, 0.0), (math.nan, math.nan), (0.0, -math.inf), (7.0, math.inf)], ids=str)
def test_a_part_without_keys_has_no_weight_whatever_a_kernel_leaves(
    problem: tuple[Tensor, Tensor], left: tuple[float, float]
) -> None:
    scores, v = problem
    out, lse = attention(scores, v)
    empty = Partial(torch.full_like(out, left[0]), torch.full_like(lse, left[1]), torch.zeros(T, dtype=torch.bool))
    assert_whole(merged([empty, Partial(out, lse), empty]), (out, lse))


def test_what_is_wrong_where_there_are_keys_stays_wrong(problem: tuple[Tensor, Tensor]) -> None:
    out, lse = attention(*problem)
    broken = Partial(torch.full_like(out, math.nan), lse, torch.tensor([True, False, True, True, True]))
    got, _ = merged([Partial(out, lse), broken])
    assert got.isnan().all(-1).all(-1).tolist() == [True, False, True, True, True]


def test_no_key_at_all_is_zero() -> None:
    nothing = Partial(torch.full((T, H, D), math.nan), torch.zeros(T, H), torch.zeros(T, dtype=torch.bool))
    out, lse = merged([nothing, nothing])
    assert bool((out == 0).all())
    assert bool((lse == -math.inf).all())
