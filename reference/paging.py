"""Reading keys and values out of a paged cache."""

import torch
from torch import Tensor


def gather_pages(cache: Tensor, pages: Tensor, valid_keys: Tensor | None, descale: Tensor | None = None) -> Tensor:
    """The cache rows of some pages, in order, exact in float64: [B, Hkv, P * block_size, D].

    `cache` [num_blocks, block_size, Hkv, D] may have any strides; `pages` [B, P] names physical pages;
    `valid_keys` [B] says how many of those P * block_size rows hold keys, None that all do. What lies past them is
    never looked at: a page id there may be out of range, a value may be NaN. It comes back as zero. `descale` [B, Hkv]
    multiplies.
    """
    batch, count = pages.shape
    _, block_size, kv_heads, head_dim = cache.shape
    if valid_keys is not None:
        holds_a_key = torch.arange(count, device=pages.device) * block_size < valid_keys[:, None]
        pages = torch.where(holds_a_key, pages, 0)
    stored = cache[pages.long()]  # [B, P, block_size, Hkv, D]
    rows = torch.empty(batch, kv_heads, count, block_size, head_dim, dtype=torch.float64, device=cache.device)
    rows.copy_(stored.permute(0, 3, 1, 2, 4))
    rows = rows.view(batch, kv_heads, count * block_size, head_dim)
    if valid_keys is not None:
        past_the_end = torch.arange(count * block_size, device=pages.device) >= valid_keys[:, None]
        rows.masked_fill_(past_the_end[:, None, :, None], 0.0)
    if descale is not None:
        rows *= descale.double()[:, :, None, None]
    return rows
