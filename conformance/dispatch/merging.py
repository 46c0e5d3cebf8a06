"""Attention over parts of the keys, put together by the sum that each part's softmax was divided by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Partial:
    """Attention over some of the keys: `out` [T, Hq, D], and `lse` [T, Hq], the natural logarithm of its sum.

    `has_keys`, bool [T], says which queries have any there; None: all. What a kernel leaves where there is none,
    whether NaN or an lse of 0, counts for nothing.
    """

    out: Tensor
    lse: Tensor
    has_keys: Tensor | None = None


def merged(parts: Sequence[Partial], sinks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The attention over all their keys, in float32: `out` [T, Hq, D] and `lse` [T, Hq].

    Each part counts as `exp(lse)` of the whole; `sinks` [Hq] are one more key, whose value is zero, and which belongs
    to no part. A query without any key has an output of 0 and an lse of -inf.
    """
    outs, lses = zip(*map(_where_there_are_keys, parts), strict=True)
    weights = list(lses) if sinks is None else [*lses, sinks.float().expand_as(lses[0])]
    maximum = torch.stack(weights).amax(0).clamp(min=LOWEST)
    shares = [(lse - maximum).exp() for lse in weights]
    total = torch.stack(shares).sum(0)
    out = sum((out * share[..., None] for out, share in zip(outs, shares[: len(outs)], strict=True)), start=outs[0] * 0)
    return torch.where(total[..., None] > 0, out / total[..., None], 0.0), maximum + total.log()


def _where_there_are_keys(part: Partial) -> tuple[Tensor, Tensor]:
    out, lse = part.out.float(), part.lse.float()
    if part.has_keys is None:
        return out, lse
    return out.masked_fill(~part.has_keys[:, None, None], 0.0), lse.masked_fill(~part.has_keys[:, None], -torch.inf)
