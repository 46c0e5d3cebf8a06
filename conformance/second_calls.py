"""The second call of each relation, made of the first one's inputs.

Every function gets inputs that it may change in place, of its own unless it shares them with the first call, and a
source of random bits.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from conformance import regimes
from conformance.block_tables import OUT_OF_RANGE, KeyRows, assign
from conformance.case import Case
from conformance.inputs import Inputs
from conformance.layouts import caches

ROOM = 4_096
"""Keys that `bounded` has room for at least: kernels that go by the bound cut them into segments."""

SHIFT, REACH = 6.0, 2.0
"""What `shifted` adds to every stored element of V, which reaches so far to both sides of 0.

The sums lie between 4 and 8, where numbers are evenly spaced, and are exact where V is a multiple of that spacing. The
outputs lie near 6: just above a power of two, rounding errs by more of a number than the judge's mean of all numbers.
"""


@dataclass(frozen=True)
class Call:
    """One of the two calls. `rows` [T], of a second one: which row of its output answers each row of the first's.

    `shift` [T, Hq, 1] float64: what the second output has on top of the first, by row of the first.
    """

    case: Case
    inputs: Inputs
    rows: Tensor | None = None
    shift: Tensor | None = None


# -- the same keys in other pages --------------------------------------------------------------------------------------


def renamed(case: Case, inputs: Inputs, bits: np.random.PCG64) -> Call:
    """No page keeps its id; those that no sequence owns are renamed too."""
    new = _cycle(len(inputs.k_cache), bits)
    for cache in (inputs.k_cache, inputs.v_cache):
        pages = _words(cache)
        pages[new] = pages.clone()
    table = inputs.block_table
    named = (table >= 0) & (table < len(new))
    table[named] = new[table[named].long()].to(table.dtype)
    return Call(case, inputs)


def resized(case: Case, inputs: Inputs, bits: np.random.PCG64) -> Call:
    """What each sequence's pages hold, stale rows included as far as there is room, in pages of another size."""
    order = "shuffled" if case.page_order == "shared" else case.page_order  # every sequence gets a copy of its own
    other = replace(case, page_size=64 if case.page_size == 16 else 16, page_order=order)
    pages, dtype = assign(other, bits), inputs.k_cache.dtype
    size, garbage = other.page_size, regimes.garbage(dtype)
    k, v = caches(case.layout, pages.blocks, size, case.kv_heads, case.head_dim, dtype, garbage)
    for cache, resized in ((inputs.k_cache, k), (inputs.v_cache, v)):
        for row, new_row, held, room in zip(inputs.block_table, pages.table, case.pages, other.pages, strict=True):
            keys = _words(cache)[row[:held].long()].flatten(0, 1)[: room * size]
            at = torch.arange(len(keys))
            _words(resized)[new_row[at // size].long(), at % size] = keys
    return Call(other, replace(inputs, k_cache=k, v_cache=v, block_table=pages.block_table(other)))


# -- what no key's row holds -------------------------------------------------------------------------------------------


def poisoned_pages(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """NaN in pages that no sequence owns; those that unused table entries name are among them."""
    keys = _key_rows(case, inputs).keys
    return _spoiled(case, inputs, ~keys.any(1)[:, None].expand_as(keys), torch.nan)


def poisoned_tails(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """NaN after each last key, as far as its page goes."""
    return _spoiled(case, inputs, _key_rows(case, inputs).tails, torch.nan)


def garbage_tails(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """Huge finite values there."""
    return _spoiled(case, inputs, _key_rows(case, inputs).tails, regimes.garbage(inputs.k_cache.dtype))


def poisoned_table(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """Table entries past each sequence's last page that name no page at all."""
    unused = torch.arange(inputs.block_table.shape[1]) >= torch.tensor(case.pages)[:, None]
    bad = torch.tensor(OUT_OF_RANGE, dtype=torch.int32)
    inputs.block_table[unused] = bad[torch.arange(int(unused.sum())) % len(bad)]
    return Call(case, inputs)


def _spoiled(case: Case, inputs: Inputs, rows: Tensor, value: float) -> Call:
    """`value` in those rows [blocks, page_size] of K, and its negative in V."""
    for cache, put in ((inputs.k_cache, value), (inputs.v_cache, -value)):
        _words(cache)[rows] = _words(torch.tensor([put]).to(cache.dtype))
    return Call(case, inputs)


def _key_rows(case: Case, inputs: Inputs) -> KeyRows:
    return KeyRows.of(case, inputs.block_table, len(inputs.k_cache))


# -- the same queries in other calls -----------------------------------------------------------------------------------


def repeated(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """The very same tensors: a call that changed them shows too."""
    return Call(case, inputs)


def reversed_batch(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """The last sequence first: of three or more, none is followed by the same one, as it would be in a rotation."""
    order = list(range(case.batch))[::-1]  # the sequence in each place
    starts = case.query_starts
    rows = torch.cat([torch.arange(starts[b], starts[b + 1]) for b in order])
    other = replace(
        case,
        query_lens=tuple(case.query_lens[b] for b in order),
        seq_lens=tuple(case.seq_lens[b] for b in order),
    )
    inputs.q.copy_(inputs.q[rows])
    return Call(other, _sequences(other, inputs, torch.tensor(order)), rows=rows.argsort())


def unrolled(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """Each query as a sequence of its own, which ends with it; a query before the first key has a sequence without."""
    starts = torch.tensor([b for b, m in enumerate(case.query_lens) for _ in range(m)])
    lens = [max(0, n - m + i + 1) for m, n in zip(case.query_lens, case.seq_lens, strict=True) for i in range(m)]
    order = "shuffled" if case.page_order == "shared" else case.page_order  # which it no longer says of these lengths
    other = replace(case, query_lens=(1,) * case.tokens, seq_lens=tuple(lens), page_order=order,
                    decode_threshold=0, chunk=0)  # fmt: skip
    return Call(other, replace(_sequences(other, inputs, starts), key=None, value=None))


def _sequences(case: Case, inputs: Inputs, order: Tensor) -> Inputs:
    """The inputs of a batch whose sequences lie in the pages of those that `order` [B] names."""
    return replace(
        inputs,
        block_table=inputs.block_table[order],
        seq_lens=torch.tensor(case.seq_lens, dtype=torch.int32),
        query_start_loc=torch.tensor(case.query_starts, dtype=torch.int32),
        k_descale=None if inputs.k_descale is None else inputs.k_descale[order],
        v_descale=None if inputs.v_descale is None else inputs.v_descale[order],
        q_descale=None if inputs.q_descale is None else inputs.q_descale[order],
    )


def other_mode(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """Causal instead of not, or the other way round: a single query stands on the last key, and sees them all."""
    return Call(replace(case, causal=not case.causal), inputs)


def bounded(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """Told a bound of the keys that a server with room for longer contexts passes, whatever its batch holds."""
    return Call(replace(case, max_keys=max(ROOM, 2 * max(case.seq_lens))), inputs)


# -- other values ------------------------------------------------------------------------------------------------------


def on_a_grid(inputs: Inputs) -> None:
    """V, in place, to multiples of what its dtype's numbers between 4 and 8 are apart, within REACH."""
    spacing = 4 * torch.finfo(inputs.v_cache.dtype).eps
    on_grid = (inputs.v_cache.float() / spacing).round() * spacing
    inputs.v_cache.copy_(on_grid.clamp(-REACH, REACH - spacing).to(inputs.v_cache.dtype))


def shifted(case: Case, inputs: Inputs, _: np.random.PCG64) -> Call:
    """SHIFT added to all that V stores."""
    inputs.v_cache.copy_((inputs.v_cache.float() + SHIFT).to(inputs.v_cache.dtype))
    shift = torch.full((case.batch, case.kv_heads), SHIFT, dtype=torch.float64)
    if inputs.v_descale is not None:
        shift *= inputs.v_descale
    per_head = shift.repeat_interleave(case.gqa_ratio, 1)  # [B, Hq]
    return Call(case, inputs, shift=per_head.repeat_interleave(torch.tensor(case.query_lens), 0)[..., None])


# -- shared parts ------------------------------------------------------------------------------------------------------


def _words(x: Tensor) -> Tensor:
    """The same memory as integers: moved bit for bit, also where a dtype lacks the operation."""
    return x.view(torch.uint8 if x.itemsize == 1 else torch.int16)


def _cycle(count: int, bits: np.random.PCG64) -> Tensor:
    """A random permutation of `count` things, int64, that leaves none of several in its place."""
    order = torch.from_numpy(np.argsort(bits.random_raw(count), kind="stable"))
    new = torch.empty_like(order)
    new[order] = order.roll(1)
    return new
