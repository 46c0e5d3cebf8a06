"""Outputs amid guard rows: what a kernel writes beside its output shows, instead of ending in whatever lies there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 64
"""Guard rows on either side: a block of queries that is written without a mask ends among them."""

MARK = -31744.0
"""What they hold: exact in every dtype of 16 bits or more, and far from any attention of a case."""


class WroteOutside(Exception):
    """A kernel wrote beside its output; the message says which and where. `path` is the one that was taken."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Guarded:
    """An output that a kernel is to write to, in the midst of rows that nobody may touch."""

    kernel: str
    around: Tensor  # [ROWS + T + ROWS, Hq, D], contiguous

    @property
    def rows(self) -> Tensor:
        """The output itself, [T, Hq, D]."""
        return self.around[ROWS:-ROWS]

    def strays(self) -> str:
        """Where guard rows were written to, in a sentence; "" if none was. Reads the device: never while capturing."""
        before, after = (_changed(rows) for rows in (self.around[:ROWS], self.around[-ROWS:]))
        places = [f"{_rows(len(before))} before it, up to {ROWS - min(before)} away"] if before else []
        places += [f"{_rows(len(after))} after it, up to {max(after) + 1} away"] if after else []
        return f"{self.kernel} wrote outside its output: {' and '.join(places)}" if places else ""


def unwritten(kernel: str, like: Tensor, dtype: torch.dtype | None = None) -> Guarded:
    """A contiguous output for the kernel of that name, shaped as `like` [T, Hq, D]: all NaN, so that gaps show.

    Nothing is read back, so this may run while a graph is captured; each replay then marks the guard rows anew.
    """
    tokens, *row = like.shape
    around = torch.full((tokens + 2 * ROWS, *row), MARK, dtype=dtype or like.dtype, device=like.device)
    guarded = Guarded(kernel, around)
    guarded.rows.fill_(torch.nan)
    return guarded


def check(guarded: Iterable[Guarded], path: str) -> None:
    """Raises WroteOutside for the first output beside which something was written."""
    for output in guarded:
        if strays := output.strays():
            raise WroteOutside(strays, path)


def _changed(rows: Tensor) -> list[int]:
    """Which guard rows no longer hold what they held; one read of the device where all do."""
    changed = rows != MARK
    return changed.flatten(1).any(1).nonzero()[:, 0].tolist() if bool(changed.any()) else []


def _rows(count: int) -> str:
    return f"{count} row" + "s" * (count > 1)
