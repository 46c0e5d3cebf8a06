"""Equality of two results to float64 rounding."""

import torch
from torch import Tensor

from reference import Attention, RoundingSums

SUMS = tuple(RoundingSums.__dataclass_fields__)

TOLERANCE = 1e-12
"""Some thousand float64 roundings; inputs are of unit size."""


def assert_same(got: Attention, want: Attention, names: tuple[str, ...] = ("out", "lse", *SUMS)) -> None:
    """Equal but for rounding: the named of `out`, `lse` and the sums."""
    for name in names:
        assert_close(
            name, of(got, name), of(want, name), _cancelled(want) if name == "squared_score_deviation" else 0.0
        )


def assert_close(name: str, got: Tensor, want: Tensor, size: Tensor | float = 0.0) -> None:
    """Relative to `want`, or to `size` where that is larger; outputs and lse, which cancel, have unit size."""
    assert got.dtype == torch.float64, f"{name} is {got.dtype}"
    assert got.shape == want.shape, f"{name} has shape {list(got.shape)}, not {list(want.shape)}"
    if name in {"out", "lse"}:
        size = 1.0
    wrong = ~((got == want) | ((got - want).abs() <= TOLERANCE * (want.abs() + size)))
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{name}{list(at)} = {got[at]:.17g}, want {want[at]:.17g}; {wrong.sum()} of {wrong.numel()}"
        )


def assert_identical(got: Attention, want: Attention) -> None:
    """Equal bit for bit, sums included where there are any."""
    assert (got.sums is None) == (want.sums is None)
    for name in ("out", "lse", *(SUMS if want.sums else ())):
        assert torch.equal(of(got, name), of(want, name)), name


def of(result: Attention, name: str) -> Tensor:
    """One tensor of a result by name."""
    if name in {"out", "lse"}:
        return getattr(result, name)
    assert result.sums is not None, "no sums were asked for"
    return getattr(result.sums, name)


def _cancelled(want: Attention) -> Tensor:
    """Size of what cancels in sum p^2 B (v - o)^2, which is zero where one key has all the weight."""
    assert want.sums is not None
    return want.sums.weighted_score.square()[..., None] * want.sums.squared_v
