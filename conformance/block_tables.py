"""Which physical page holds which keys."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conformance.case import Case
from conformance.layouts import page_stride

SPARE_PAGES = 3
"""Pages that no sequence owns; the first of them is what unused table entries name, as a server's padding does."""

FIRST_HIGH_PAGE = 65_536
"""The first page id that 16 bits cannot hold."""

OUT_OF_RANGE = (-1, 2_147_480_000)
"""What a table may hold past a sequence's end where its server does not clear it."""


@dataclass(frozen=True)
class Pages:
    """The pages of a case, numbered from 0 as `pool` of them hold values; the cache begins `first` pages earlier."""

    table: Tensor  # int32 [B, W]
    owned: Tensor  # int32, the pages that some sequence owns, each once
    pool: int
    first: int

    @property
    def blocks(self) -> int:
        """Pages of the whole cache, those without values included."""
        return self.first + self.pool

    def block_table(self, case: Case) -> Tensor:
        """The table as a kernel gets it, int32 [B, W]."""
        table = self.table + self.first
        if case.regime == "poison.table":
            bad = torch.tensor(OUT_OF_RANGE, dtype=torch.int32).repeat(-(-table.shape[1] // 2))[: table.shape[1]]
            for row, pages in zip(table, case.pages, strict=True):
                row[pages:] = bad[pages:]
        return table


def assign(case: Case, bits: np.random.PCG64) -> Pages:
    """Pages for every sequence, in the case's page order; entries past a sequence's last page name page 0."""
    shared = case.shared_pages
    sharers = sum(n >= case.page_size for n in case.seq_lens) if shared else 0
    used = sum(case.pages) - shared * max(0, sharers - 1)
    shuffled = np.argsort(bits.random_raw(used + SPARE_PAGES - 1), kind="stable")[:used] + 1
    if case.page_order == "ascending":
        shuffled = np.arange(1, used + 1)
    owned = torch.from_numpy(shuffled.astype(np.int32))
    prefix, rest = owned[:shared], owned[shared:]
    table = torch.zeros(case.batch, max(1, *case.pages) * case.table_width, dtype=torch.int32)
    for row, n, pages in zip(table, case.seq_lens, case.pages, strict=True):
        common = shared if n >= case.page_size else 0
        own = pages - common
        row[:common], row[common:pages], rest = prefix[:common], rest[:own], rest[own:]
    return Pages(table, owned, used + SPARE_PAGES, _first(case))


@dataclass(frozen=True)
class KeyRows:
    """Bool [pages, page_size]: which rows hold a key, and which are the tail of a last page."""

    keys: Tensor
    tails: Tensor
    position: Tensor  # int64, of each row that holds a key

    @classmethod
    def of(cls, case: Case, table: Tensor, pages: int) -> "KeyRows":
        """Those of so many pages, as a block table [B, W] names them."""
        count = torch.zeros(pages, dtype=torch.int64)  # rows of each page that hold a key
        at = torch.zeros(pages, dtype=torch.int64)  # position of each page's first row
        for row, n, used in zip(table.long(), case.seq_lens, case.pages, strict=True):
            first = torch.arange(used) * case.page_size
            count[row[:used]], at[row[:used]] = (n - first).clamp(max=case.page_size), first
        within = torch.arange(case.page_size)
        keys = within < count[:, None]
        return cls(keys, ~keys & (count[:, None] > 0), at[:, None] + within)


def _first(case: Case) -> int:
    if case.page_order == "high":
        return FIRST_HIGH_PAGE
    if case.page_order == "huge":  # the offset of its first element is above 2^31
        return 2**31 // page_stride(case.layout, case.page_size, case.kv_heads, case.head_dim) + 1
    return 0
