"""Reading keys and values out of a paged cache."""

import torch
from torch import Tensor


def readable_pages(block_table: Tensor, seq_lens: Tensor, block_size: int) -> Tensor:
    """The table [B, W] as int64, with page 0 in place of every entry past a sequence's last page.

    What stands there may be anything, an id out of range included, and must not be looked up.
    """
    first_keys = torch.arange(0, block_table.shape[1] * block_size, block_size, device=block_table.device)
    return block_table.long().masked_fill(first_keys >= seq_lens[:, None], 0)


def gather_pages(cache: Tensor, pages: Tensor, unseen: Tensor | None, descale: Tensor | None = None) -> Tensor:
    """The cache rows of some pages, in order, exact in float64: [B, Hkv, P * block_size, D].

    `cache` [num_blocks, block_size, Hkv, D] may have any strides; `pages` [B, P] int64 names physical pages.
    `unseen`, bool [B, P * block_size], marks rows that no query sees, past the end or outside every window: they come
    back as zero, whatever is stored there (a weight of 0 does not help against NaN); None says that there are none.
    `descale` [B, Hkv] multiplies.
    """
    batch, count = pages.shape
    _, block_size, kv_heads, head_dim = cache.shape
    stored = cache[pages]  # [B, P, block_size, Hkv, D]
    rows = torch.empty(batch, kv_heads, count, block_size, head_dim, dtype=torch.float64, device=cache.device)
    rows.copy_(stored.permute(0, 3, 1, 2, 4))
    rows = rows.view(batch, kv_heads, count * block_size, head_dim)
    if unseen is not None:
        rows.masked_fill_(unseen[:, None, :, None], 0.0)
    if descale is not None:
        rows *= descale[:, :, None, None]
    return rows
