"""Which key a query sees."""

import torch
from torch import Tensor


def diagonal(query_lens: Tensor, seq_lens: Tensor, max_query_len: int) -> Tensor:
    """Key position on which each query stands: `n - m + i`, bottom-right aligned, int64 [B, m]; negative if n < m."""
    i = torch.arange(max_query_len, device=seq_lens.device)
    return (seq_lens - query_lens)[:, None] + i[None, :]


def visible(
    diagonal: Tensor,
    seq_lens: Tensor,
    keys: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] = (-1, -1),
    first: Tensor | None = None,
) -> Tensor:
    """Bool [B, m, C]: does query `i` of sequence `b` see the key at position `keys[c]`?

    `diagonal` [B, m] is where each query stands, `seq_lens` [B] counts the keys, `keys` [C] are positions.
    A window `(left, right)` reaches that many keys to each side of the diagonal; a negative side is unbounded. Keys
    before `first` [B] are not seen.
    """
    at = keys[None, None, :] - diagonal[:, :, None]
    seen = (keys[None, :] < seq_lens[:, None])[:, None, :].expand_as(at)
    if first is not None:
        seen = seen & (keys[None, :] >= first[:, None])[:, None, :]
    if causal:
        seen = seen & (at <= 0)
    left, right = window
    if left >= 0:
        seen = seen & (at >= -left)
    if right >= 0:
        seen = seen & (at <= right)
    return seen
