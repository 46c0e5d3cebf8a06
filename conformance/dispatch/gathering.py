"""Pages to consecutive keys."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.dispatch.metadata import KeyRanges


@dataclass(frozen=True)
class Slots:
    """Where keys lie, sequence by sequence: whose they are, their page, and their row in it, int64 [N] each."""

    sequence: Tensor
    page: Tensor
    row: Tensor


def slots(block_table: Tensor, ranges: KeyRanges, page_size: int) -> Slots:
    """Those of some ranges of keys. No value is read back from the device."""
    row = torch.arange(ranges.total, device=block_table.device)
    sequence = torch.searchsorted(ranges.cu_seqlens[1:].long(), row, right=True)
    position = ranges.starts[sequence] + row - ranges.cu_seqlens[sequence]
    return Slots(sequence, block_table[sequence, position // page_size].long(), position % page_size)


def taken(cache: Tensor, where: Slots, dtype: torch.dtype, descale: Tensor | None) -> Tensor:
    """Those rows of a cache [num_blocks, page_size, Hkv, D], in `dtype`: [N, Hkv, D].

    `descale` [S, Hkv] multiplies, in float32.
    """
    rows = cache[where.page, where.row]
    if descale is None:
        return rows.to(dtype)
    return (rows.float() * descale[where.sequence][..., None]).to(dtype)


def gathered(
    cache: Tensor, block_table: Tensor, ranges: KeyRanges, dtype: torch.dtype, descale: Tensor | None
) -> Tensor:
    """The rows of a cache in some ranges of keys, packed: [N, Hkv, D]."""
    return taken(cache, slots(block_table, ranges, cache.shape[1]), dtype, descale)
