"""Keys and values taken out of their pages, as kernels want them that know of none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conformance.case import DECODE, Case
from conformance.dispatch.gathering import Slots, slots, taken
from conformance.dispatch.metadata import KeyRanges
from conformance.inputs import Inputs
from conformance.status import Unsupported


def ranges(inputs: Inputs, first: Sequence[int], end: Sequence[int]) -> KeyRanges:
    """Keys `first[b] <= j < end[b]` of each sequence: the host knows the lengths, the device has the table."""
    return KeyRanges.of(first, [b - a for a, b in zip(first, end, strict=True)], inputs.q.device)


def every_key(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """K and V [sum n, Hkv, D], and where each sequence's begin, int32 [B + 1].

    They are in the dtype of q; where both are small, they are as stored.
    """
    every = ranges(inputs, [0] * case.batch, case.seq_lens)
    if not case.q_dtype:
        return *stored(inputs, every), every.cu_seqlens
    where = slots(inputs.block_table, every, case.page_size)
    return inputs.k_cache[where.page, where.row], inputs.v_cache[where.page, where.row], every.cu_seqlens


def stored(inputs: Inputs, some: KeyRanges) -> tuple[Tensor, Tensor]:
    """K and V [N, Hkv, D] of those keys; what a smaller cache holds is multiplied by its descale, exactly."""
    where = slots(inputs.block_table, some, inputs.k_cache.shape[1])
    dtype = inputs.q.dtype
    return taken(inputs.k_cache, where, dtype, inputs.k_descale), taken(inputs.v_cache, where, dtype, inputs.v_descale)


def new_tokens(case: Case, inputs: Inputs, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """K and V [T, Hkv, D] of the queries' own tokens: as the layer computed them, or from the pages, where any decode.

    A kernel does not read those of sequences with fewer queries than `least`, which are NaN. Raises Unsupported where
    a sequence has more queries than keys, so that some of its tokens have neither.
    """
    read = [m >= least for m in case.query_lens]
    if any(m > n for m, n, needed in zip(case.query_lens, case.seq_lens, read, strict=True) if needed):
        raise Unsupported("of a sequence with more queries than keys some tokens have no key that could be passed on")
    from_pages = any(needed and kind == DECODE for needed, kind in zip(read, case.kinds, strict=True))
    if not from_pages and inputs.key is not None and inputs.value is not None:
        return inputs.key, inputs.value
    first = [n - m if needed else n for m, n, needed in zip(case.query_lens, case.seq_lens, read, strict=True)]
    tokens = torch.tensor(read).repeat_interleave(torch.tensor(case.query_lens)).to(inputs.q.device)

    def as_packed(rows: Tensor) -> Tensor:
        every = rows.new_full((case.tokens, *rows.shape[1:]), torch.nan)
        every[tokens] = rows
        return every

    k, v = stored(inputs, ranges(inputs, first, case.seq_lens))
    return as_packed(k), as_packed(v)


def context(case: Case, inputs: Inputs) -> tuple[KeyRanges, Slots]:
    """Where the keys before the queries' own tokens lie; for batches of which `new_tokens` has them all."""
    before = [n - m for m, n in zip(case.query_lens, case.seq_lens, strict=True)]
    some = ranges(inputs, [0] * case.batch, before)
    return some, slots(inputs.block_table, some, case.page_size)


def as_rows(k_cache: Tensor, v_cache: Tensor) -> tuple[Tensor, Tensor, int]:
    """Both caches as rows that pages are cut from, [R, Hkv, D], and how many rows lie from one page to the next.

    Views: rows between the pages of a cache are another's, or another head's, and are never asked for. Raises
    Unsupported where pages lie no whole number of rows apart, or K's otherwise than V's.
    """
    apart = {cache.stride(0) / cache.stride(1) for cache in (k_cache, v_cache)}
    if len(apart) > 1 or not min(apart).is_integer():
        raise Unsupported("pages that are not the same whole number of rows apart in K and in V")
    step, (pages, page_size, heads, head_dim) = int(min(apart)), k_cache.shape
    size = ((pages - 1) * step + page_size, heads, head_dim)
    k, v = (x.as_strided(size, x.stride()[1:], x.storage_offset()) for x in (k_cache, v_cache))
    return k, v, step
