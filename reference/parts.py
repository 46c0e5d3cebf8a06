"""A call that is answered in parts, each over some of the keys: what the rounding of their outputs scales with."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reference.attention import Attention, PartSums


def part_sums(
    whole: Attention, starts: Sequence[tuple[int, ...]], part: Callable[[Tensor, Tensor], Attention], queries: Tensor
) -> PartSums:
    """Sums over the parts of a call whose exact answer is `whole`.

    `starts` has for each sequence where its parts begin, and where its keys end; `part(first, last)` is the exact
    answer over the keys `first[b] <= j < last[b]` alone, sinks left out; `queries` [B] counts each sequence's.
    """
    device, most = whole.out.device, max(map(len, starts)) - 1
    cut = torch.tensor([len(s) > 2 for s in starts], device=device).repeat_interleave(queries.to(device))[:, None, None]
    running = torch.zeros_like(whole.out)
    sums = PartSums(*(torch.zeros_like(whole.out) for _ in range(4)))
    for i in range(most):
        first, last = (torch.tensor([s[min(i + end, len(s) - 1)] for s in starts], device=device) for end in (0, 1))
        one = part(first, last)
        weight = (one.lse - whole.lse).exp().nan_to_num(nan=0.0)[..., None]  # -inf less -inf: nothing is seen at all
        share = (weight * one.out).where(cut, 0.0)
        running += share
        sums.weighted.add_(share.abs())
        sums.squared.add_(share.square())
        # A merge that adds nothing is none; and what the last one makes is the output.
        merges = torch.tensor([0 < i < len(s) - 2 for s in starts], device=device)
        between = running.where(merges.repeat_interleave(queries.to(device))[:, None, None], 0.0)
        sums.running.add_(between.abs())
        sums.running_squared.add_(between.square())
    return sums
