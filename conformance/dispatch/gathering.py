"""Pages to consecutive keys."""

import torch
from torch import Tensor

from conformance.dispatch.metadata import KeyRanges


def gathered(
    cache: Tensor, block_table: Tensor, ranges: KeyRanges, dtype: torch.dtype, descale: Tensor | None
) -> Tensor:
    """The rows of a cache [num_blocks, page_size, Hkv, D] in some ranges of keys, packed, in `dtype`: [N, Hkv, D].

    `descale` [S, Hkv] multiplies, in float32. No value is read back from the device.
    """
    row = torch.arange(ranges.total, device=cache.device)
    sequence = torch.searchsorted(ranges.cu_seqlens[1:].long(), row, right=True)
    position = ranges.starts[sequence] + row - ranges.cu_seqlens[sequence]
    page = block_table[sequence, position // cache.shape[1]].long()
    rows = cache[page, position % cache.shape[1]]
    if descale is None:
        return rows.to(dtype)
    return (rows.float() * descale[sequence][..., None]).to(dtype)
