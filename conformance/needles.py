"""Needle inputs: nearly all the weight of a query falls on one key, at a place where kernels go wrong.

With random inputs an error at a single key drowns in rounding noise from a few thousand keys on. A needle takes that
away at any length, and the output then names the key that was read.
"""

from itertools import zip_longest

import torch
from torch import Tensor

from conformance.case import Case

TILE = 64
"""Kernels cut the keys at multiples of their tile, which is mostly 64 keys, or a page."""

SPLITS = (2, 4, 8, 16, 32, 64)
"""Kernels that split the keys of a sequence cut its length, or what its row of the table could hold, in so many."""

CUTS_OF_A_KIND = 8
"""So many of the edges of tiles, pages or splits are suspects of one query; the next query takes others."""

NEEDLE_LOGIT = 32.0
"""About the score of a query with its needle; the other keys keep a spread of a few units, and a weight below 1e-6."""


def plant(case: Case, q: Tensor, k: Tensor, table: Tensor, k_descale: float, scale: float) -> None:
    """Align queries `q` [T, Hq, D] with chosen keys of `k` [pool, page_size, Hkv, D] times `k_descale`, in place.

    Each chosen key is doubled, which sets it apart from the rest; each query row points at one of them, whether it may
    see it or not: a key just past a causal bound, a window or the sequence's end is a needle too, and must not be seen.
    """
    chosen = {b: _targets(case, b) for b in range(case.batch) if case.query_lens[b] and case.seq_lens[b]}
    doubled = torch.zeros(k.shape[:2], dtype=torch.bool)  # a page may be several sequences'
    for b, targets in chosen.items():
        doubled[_rows(case, table[b], targets)] = True
    k[doubled] *= 2
    kv_head = torch.arange(case.q_heads) // case.gqa_ratio
    for b, targets in chosen.items():
        page, row = _rows(case, table[b], targets)
        needle = k[page, row, kv_head].float() * k_descale  # [m, Hq, D]
        q[case.query_starts[b] : case.query_starts[b + 1]] = needle * (NEEDLE_LOGIT / 4 / (case.head_dim * scale))


def _targets(case: Case, b: int) -> Tensor:
    """The position at which each (query, head) of a sequence points, int64 [m, Hq]: neighbours take different ones.

    One row of every sequence points at its last key, which in a causal draft the last query alone may see.
    """
    row = torch.arange(case.q_heads) + b
    targets = []
    for i in range(case.query_lens[b]):
        edges, cuts = (torch.tensor(places or [0]) for places in suspects(case, b, i))
        third = row // 3
        targets.append(torch.where(row % 3 == 2, cuts[third % len(cuts)], edges[(row - third) % len(edges)]))
        row = row + case.q_heads
    targets[-1][0] = case.seq_lens[b] - 1
    return torch.stack(targets)


def _rows(case: Case, row_of_table: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Page and row of key positions."""
    return row_of_table[positions // case.page_size].long(), positions % case.page_size


def suspects(case: Case, b: int, i: int) -> tuple[list[int], list[int]]:
    """Key positions at which query `i` of sequence `b` could go wrong: edges of what it sees, and where keys are cut.

    Stale rows after the last key, as far as the sequence's pages go, are among them.
    """
    m, n = case.query_lens[b], case.seq_lens[b]
    stand = n - m + i
    left, right = case.window
    edges = [n - 1, n, 0, stand, stand + 1]
    edges += [stand - left, stand - left - 1] if left >= 0 else []
    edges += [stand + right, stand + right + 1] if right >= 0 else []
    last_page = (n - 1) // case.page_size * case.page_size
    edges += [last_page, last_page - 1, case.page_size, case.page_size - 1]

    cuts = [_some(range(stride, n, stride), i) for stride in (TILE, case.page_size)]
    if inner := case.parts(b)[1:-1]:
        cuts.append(_some(list(inner), i))
    capacity = max(1, *case.pages) * case.table_width * case.page_size
    for whole in dict.fromkeys((capacity, n)):
        sizes = dict.fromkeys(-(-whole // parts) for parts in SPLITS)
        cuts.append(_some([cut for size in sizes for cut in range(size, n, size)], i))

    def readable(places: list[int]) -> list[int]:
        return list(dict.fromkeys(place for place in places if 0 <= place < case.pages[b] * case.page_size))

    return readable(edges), readable([place for cut in _in_turn(cuts) for place in (cut, cut - 1)])


def _some(cuts: range | list[int], i: int) -> list[int]:
    """At most CUTS_OF_A_KIND of them, others for each query."""
    if len(cuts) <= CUTS_OF_A_KIND:
        return list(cuts)
    return [cuts[(i * 5 + at * len(cuts) // CUTS_OF_A_KIND) % len(cuts)] for at in range(CUTS_OF_A_KIND)]


def _in_turn(lists: list[list[int]]) -> list[int]:
    """The first of each list, then the second of each, and so on: whoever takes only a few takes some of every kind."""
    return [place for places in zip_longest(*lists) for place in places if place is not None]
