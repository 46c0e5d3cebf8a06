"""Single steps done wrong, for `tests.harness.defects` to put into a kernel: each as real ones have done it."""

from collections.abc import Callable

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.layouts import page_stride
from tests.harness.flash import misread

# -- which keys --------------------------------------------------------------------------------------------------------


def up_to(change: Callable[[Case, int], int]) -> Callable[[Case, int], tuple[int, int]]:
    """Reads the keys before `change(case, n)`, as far as a sequence's pages go."""
    return lambda case, n: (0, min(max(change(case, n), 0), -(-n // case.page_size) * case.page_size))


def last_full_tile_skipped(case: Case, n: int) -> int:
    """The loop runs to `n // tile`, less one where nothing is left over."""
    return n - 32 if n % 32 == 0 else n


def keys_of_the_first_query(case: Case, n: int) -> int:
    return n - max(case.query_lens) + 1


def as_wide_as_the_draft(case: Case) -> tuple[int, int]:
    """The window of the first query begins where it does, that of the last as far to its left."""
    left, right = case.window
    return (left + max(case.query_lens) - 1 if left >= 0 else left), right


def room_in_the_table(case: Case, b: int) -> int:
    return max(1, *case.pages) * case.table_width * case.page_size


def second_split_starts_late(ranges: list[slice]) -> list[slice]:
    """The key at the edge is in neither."""
    return [slice(part.start + (at == 1), part.stop) for at, part in enumerate(ranges)]


def second_split_starts_early(ranges: list[slice]) -> list[slice]:
    """The key at the edge is in both."""
    return [slice(part.start - (at == 1), part.stop) for at, part in enumerate(ranges)]


def first_split_ends_early(ranges: list[slice]) -> list[slice]:
    """The key at the edge is in neither; nothing is lost where there is but one split."""
    return [slice(part.start, part.stop - (at == 0 and len(ranges) > 1)) for at, part in enumerate(ranges)]


def last_split_lost(ranges: list[slice]) -> list[slice]:
    return ranges[:-1] if len(ranges) > 1 else ranges


def first_split_lost(ranges: list[slice]) -> list[slice]:
    return ranges[1:] if len(ranges) > 1 else ranges


def as_if_uniform(case: Case, b: int) -> int:
    """The first query of a sequence lies at `b * m`."""
    m = max(case.query_lens)
    return min(b * m, case.tokens - case.query_lens[b])


# -- which pages -------------------------------------------------------------------------------------------------------


def a_page_read_twice(case: Case, b: int, table: Tensor) -> Tensor:
    """The second page again where the third should be, or the first where there are but two."""
    row = table[b].clone()
    if case.pages[b] > 1:
        last = min(2, case.pages[b] - 1)
        row[last] = row[last - 1]
    return row


def a_page_left_out(case: Case, b: int, table: Tensor) -> Tensor:
    """Every later page comes one too early; the last is read twice."""
    row = table[b].clone()
    if case.pages[b] > 1:
        row[1 : case.pages[b] - 1] = table[b, 2 : case.pages[b]]
    return row


def rows_without_spare_entries(case: Case, b: int, table: Tensor) -> Tensor:
    """A row of the table is taken to be as long as the longest sequence needs."""
    return table.flatten()[b * max(1, *case.pages) :]


def ids_of_16_bits(case: Case, b: int, table: Tensor) -> Tensor:
    return table[b] & 0xFFFF


def ids_of_signed_16_bits(case: Case, b: int, table: Tensor) -> Tensor:
    return table[b].to(torch.int16).int().clamp(min=0)  # what lies before a cache is anybody's


HUGE = "decode-{}-bf16-b1-q4-h2:1-d64-p16-kv50-pages.huge-contiguous-random"
"""A case whose caches have more than 2^31 elements, causal or not: too large for a first look at a GPU."""


def offsets_of_31_bits(case: Case, b: int, table: Tensor) -> Tensor:
    """Element offsets wrap round at 2^31; here to the page nearest to where they end up."""
    stride = page_stride(case.layout, case.page_size, case.kv_heads, case.head_dim)
    return table[b].long() * stride % 2**31 // stride


# -- where K and V lie -------------------------------------------------------------------------------------------------

Caches = Callable[[Case, Inputs], tuple[Tensor, Tensor]]


def found_by(strides: Callable[[Tensor], tuple[int, ...]], layout: str | None = None) -> Caches:
    """Both caches by other strides than their own, where they have that layout."""

    def caches(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
        k, v = inputs.k_cache, inputs.v_cache
        return (misread(k, strides(k)), misread(v, strides(v))) if layout in (None, case.layout) else (k, v)

    return caches


def page_from_token(x: Tensor) -> tuple[int, ...]:
    """The stride between pages is the page size times that between tokens."""
    return (x.shape[1] * x.stride(1), *x.stride()[1:])


def dense(x: Tensor) -> tuple[int, ...]:
    """Nothing lies between."""
    _, page_size, heads, head_dim = x.shape
    return page_size * heads * head_dim, heads * head_dim, head_dim, 1


def dense_pages(x: Tensor) -> tuple[int, ...]:
    """Pages begin where they do; nothing lies between the rows of one."""
    return (x.stride(0), *dense(x)[1:])


def head_and_token_swapped(x: Tensor) -> tuple[int, ...]:
    return x.stride(0), x.stride(2), x.stride(1), x.stride(3)


def v_found_by_strides_of_k(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    return inputs.k_cache, misread(inputs.v_cache, inputs.k_cache.stride())


def offset_forgotten(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Both caches begin where their memory does."""
    k, v = (x.as_strided(x.shape, x.stride(), 0) for x in (inputs.k_cache, inputs.v_cache))
    return k, v


def next_power_of_two(head_dim: int) -> int:
    return 1 << (head_dim - 1).bit_length()


# -- softmax -----------------------------------------------------------------------------------------------------------


def of_the_first_tile(running: Tensor, tile: Tensor, first: int) -> Tensor:
    return running if first else tile


def of_all_heads(running: Tensor, tile: Tensor, first: int) -> Tensor:
    """One maximum for all heads of a query; both [Hq, m]."""
    return torch.maximum(running, tile).amax(0).expand_as(running)


# -- what is stored ----------------------------------------------------------------------------------------------------


def last_row_unwritten(case: Case, out: Tensor) -> Tensor:
    out = out.clone()
    out[-1] = torch.nan
    return out


def one_nan(case: Case, out: Tensor) -> Tensor:
    out = out.clone()
    out[len(out) // 2, -1, 3] = torch.nan
    return out


def rows_past_16_zero(case: Case, out: Tensor) -> Tensor:
    """A tile of queries has 16 rows, and there is but one."""
    out = out.clone()
    for start, m in zip(case.query_starts, case.query_lens, strict=False):
        out[start + 16 : start + m] = 0
    return out


def dims_past_128_zero(case: Case, out: Tensor) -> Tensor:
    out = out.clone()
    out[..., 128:] = 0
    return out


def truncated(x: Tensor) -> Tensor:
    """Cut off to bf16 instead of rounded."""
    return (x.view(torch.int32) & ~0xFFFF).view(torch.float32)


# -- descales ----------------------------------------------------------------------------------------------------------


def descales(
    change: Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor | None]],
    where: Callable[[Case], bool] = lambda _: True,
) -> Callable[[Case, Inputs], tuple[Tensor | None, Tensor | None]]:
    """What becomes of the descales of K and V, where there are any."""

    def changed(case: Case, inputs: Inputs) -> tuple[Tensor | None, Tensor | None]:
        if inputs.k_descale is None or inputs.v_descale is None or not where(case):
            return inputs.k_descale, inputs.v_descale
        return change(inputs.k_descale, inputs.v_descale)

    return changed
