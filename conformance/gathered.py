"""Keys and values taken out of their pages, as kernels want them that know of none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs


@dataclass(frozen=True)
class Slots:
    """Where keys lie, in the order of their sequences: `sequence`, `page` and `row` int64 [N], `starts` int32 [B + 1]."""

    sequence: Tensor
    page: Tensor
    row: Tensor
    starts: Tensor


def slots(case: Case, inputs: Inputs, first: Sequence[int], end: Sequence[int]) -> Slots:
    """Those of keys `first[b] <= j < end[b]` of each sequence. The lengths are the host's; the table is read where it is."""
    counts = torch.tensor([b - a for a, b in zip(first, end, strict=True)])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    sequence = torch.arange(case.batch).repeat_interleave(counts)
    key = torch.arange(len(sequence)) + (torch.tensor(first) - starts[:-1])[sequence]
    device = inputs.q.device
    sequence, key = sequence.to(device), key.to(device)
    page = inputs.block_table[sequence, key // case.page_size].long()
    return Slots(sequence, page, key % case.page_size, starts.int().to(device))


def every_key(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """K and V [sum n, Hkv, D] in the dtype of the output, and where each sequence's begin, int32 [B + 1]."""
    where = slots(case, inputs, [0] * case.batch, case.seq_lens)
    return *stored(inputs, where), where.starts


def stored(inputs: Inputs, where: Slots) -> tuple[Tensor, Tensor]:
    """K and V [N, Hkv, D] at those places; what a smaller cache holds is multiplied by its descale, exactly."""

    def take(cache: Tensor, descale: Tensor | None) -> Tensor:
        values = cache[where.page, where.row]
        return values if descale is None else (values.float() * descale[where.sequence][..., None]).to(inputs.q.dtype)

    return take(inputs.k_cache, inputs.k_descale), take(inputs.v_cache, inputs.v_descale)
