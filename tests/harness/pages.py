"""Where the rows of a cache belong, found from the block table alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs


@dataclass(frozen=True)
class Rows:
    """Bool [num_blocks, block_size]: which rows of the pool hold a key, and which are the tail of a last page."""

    keys: Tensor
    tails: Tensor

    @classmethod
    def of(cls, case: Case, made: Inputs) -> "Rows":
        keys = torch.zeros(len(made.k_cache), case.page_size, dtype=torch.bool)
        tails = torch.zeros_like(keys)
        for row, n, pages in zip(made.block_table.tolist(), case.seq_lens, case.pages, strict=True):
            for j in range(pages * case.page_size):
                where = row[j // case.page_size], j % case.page_size
                (keys if j < n else tails)[where] = True
        return cls(keys, tails)
