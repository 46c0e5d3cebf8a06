"""Needle inputs: nearly all the weight of a query falls on one key, at a place where kernels go wrong.

With random inputs an error at a single key drowns in rounding noise from a few thousand keys on. A needle takes that
away at any length, and the output then names the key that was read.
"""

import torch
from torch import Tensor

from conformance.case import Case

SPLIT = 64
"""Kernels cut the keys at multiples of their tile, which is mostly 64 keys, or a page."""

NEEDLE_LOGIT = 32.0
"""About the score of a query with its needle; the other keys keep a spread of a few units, and a weight below 1e-6."""


def plant(case: Case, q: Tensor, k_pool: Tensor, block_table: Tensor) -> None:
    """Align queries `q` [T, Hq, D] with chosen keys of `k_pool` [num_blocks, block_size, Hkv, D], both in place.

    Each chosen key is doubled, which sets it apart from the rest; each query row points at one of them, whether it may
    see it or not: a key just past a causal bound, a window or the sequence's end is a needle too, and must not be seen.
    """
    kv_head = torch.arange(case.q_heads) // case.gqa_ratio
    for b, (m, n) in enumerate(zip(case.query_lens, case.seq_lens, strict=True)):
        readable = len_on_pages(case, n)
        if m == 0 or readable == 0:
            continue
        places = [suspects(case, m, n, i, readable) for i in range(m)]
        chosen = torch.tensor(sorted(set().union(*places)))
        pages, rows = block_table[b, chosen // case.page_size].long(), chosen % case.page_size
        k_pool[pages, rows] *= 2
        keys = k_pool[pages, rows]  # [chosen, Hkv, D]
        order = {int(place): index for index, place in enumerate(chosen)}
        for i, suspected in enumerate(places):
            turn = torch.arange(case.q_heads) + i * (case.q_heads + 1) + b  # neighbouring rows take different needles
            target = torch.tensor([order[place] for place in suspected])[turn % len(suspected)]
            q[case.query_starts[b] + i] = keys[target, kv_head] * (NEEDLE_LOGIT / 4 / case.head_dim**0.5)


def len_on_pages(case: Case, n: int) -> int:
    """Rows on a sequence's pages: its keys and the stale rows after them."""
    return -(-n // case.page_size) * case.page_size


def suspects(case: Case, m: int, n: int, i: int, readable: int) -> list[int]:
    """Key positions at which query `i` of `m` over `n` keys could go wrong, most dangerous first."""
    stand = n - m + i
    left, right = case.window
    edges = [n - 1, n, 0, stand, stand + 1]
    edges += [stand - left, stand - left - 1] if left >= 0 else []
    edges += [stand + right, stand + right + 1] if right >= 0 else []
    last_page = (n - 1) // case.page_size * case.page_size
    edges += [last_page, last_page - 1, case.page_size, case.page_size - 1]
    for stride in (SPLIT, case.page_size):
        cuts = range(stride, n, stride)
        few = cuts if len(cuts) <= 8 else [cuts[(i * 5 + at) % len(cuts)] for at in range(8)]
        edges += [place for cut in few for place in (cut, cut - 1)]
    return list(dict.fromkeys(place for place in edges if 0 <= place < readable))
