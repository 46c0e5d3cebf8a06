"""Reading keys and values out of a paged cache."""

import torch
from torch import Tensor


def gather_pages(
    cache: Tensor, pages: Tensor, valid_keys: Tensor, descale: Tensor | None = None, *, check_tail: bool = True
) -> Tensor:
    """The cache rows of some pages, in order, exact in float64: [B, Hkv, P * block_size, D].

    `cache` [num_blocks, block_size, Hkv, D] may have any strides; `pages` [B, P] names physical pages;
    `valid_keys` [B] says how many of those P * block_size rows hold keys. What lies past them is never looked at:
    a page id there may be out of range, a value there may be NaN. It comes back as zero. `descale` [B, Hkv] multiplies.
    With `check_tail=False` the caller states that every row holds a key.
    """
    batch, count = pages.shape
    _, block_size, kv_heads, head_dim = cache.shape
    if check_tail:
        holds_a_key = torch.arange(count, device=pages.device)[None, :] * block_size < valid_keys[:, None]
        pages = torch.where(holds_a_key, pages, 0)
    stored = cache[pages.long()]  # [B, P, block_size, Hkv, D]
    rows = torch.empty(batch, kv_heads, count, block_size, head_dim, dtype=torch.float64, device=cache.device)
    rows.copy_(stored.permute(0, 3, 1, 2, 4))
    rows = rows.view(batch, kv_heads, count * block_size, head_dim)
    if check_tail:
        past_the_end = torch.arange(count * block_size, device=pages.device)[None, :] >= valid_keys[:, None]
        rows.masked_fill_(past_the_end[:, None, :, None], 0.0)
    if descale is not None:
        rows *= descale.double()[:, :, None, None]
    return rows


def pad_queries(packed: Tensor, query_start_loc: Tensor, max_query_len: int) -> Tensor:
    """[T, H, D] with ragged queries -> [B, m, H, D]; rows past a sequence's last query repeat some real query."""
    return packed[padded_rows(query_start_loc, max_query_len, packed.shape[0])]


def padded_rows(query_start_loc: Tensor, max_query_len: int, total: int) -> Tensor:
    """Int64 [B, m]: the packed row of query `i` of sequence `b`, clamped into the tensor where there is none."""
    i = torch.arange(max_query_len, device=query_start_loc.device)
    return (query_start_loc[:-1].long()[:, None] + i[None, :]).clamp(max=total - 1)
