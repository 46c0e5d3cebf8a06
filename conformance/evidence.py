"""What a wrong output of a needle case says: which key was read instead of which.

Every row of V differs from every other, and nearly all weight of a query falls on one key: so an output is nearly a row
of V, and names the key it belongs to. Where K was read elsewhere the query finds its needle nowhere, and the output is
a mixture; then the largest part of it is named, if one stands out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.judge import Verdict, locate

LEAST_PART = 0.5
"""An output that is at least so much of one row of V, and at most half as much of others, names that row's key."""

MOST_ROWS = 64
"""So many wrong rows are asked whether they err alike."""


@dataclass(frozen=True)
class Key:
    """A row of V, and whose it is; position and sequence are None for a page that no sequence owns."""

    head: int
    page: int
    row: int
    sequence: int | None
    position: int | None

    def __str__(self) -> str:
        if self.sequence is None:
            return f"row {self.row} of page {self.page}, which is no sequence's, KV head {self.head}"
        return f"key {self.position} of sequence {self.sequence}, KV head {self.head}"


def key_read(case: Case, inputs: Inputs, out: Tensor, want: Tensor, verdict: Verdict) -> str:
    """Which key the worst row of a needle case read, and which it should have, or "" where the output names none.

    `out` and `want` [T, Hq, D]. Raises nothing: an output without such evidence is told by its numbers alone.
    """
    if case.regime != "needle" or verdict.worst is None or verdict.worst.dim is None:
        return ""
    token, head = case.query_starts[verdict.worst.sequence] + verdict.worst.query, verdict.worst.head
    values = _Values.of(case, inputs)
    (read, part), (due, _) = (values.nearest(x[token, head], verdict.worst.sequence) for x in (out, want))
    if read is None and due is None:
        return ""
    mostly = f"{part:.0%} of " if part < 0.95 else ""
    said = f"reads {f'{mostly}{read}' if read else 'no single key'}, instead of {due or 'no single key'}"
    if verdict.wrong is None or (shift := _shift(read, due)) is None:
        return said
    agree = sum(
        values.shift(case, out, want, *place) == shift for place in verdict.wrong.nonzero().tolist()[:MOST_ROWS]
    )
    return said + (f"; {agree} wrong rows are {shift:+d} keys off" if agree > 1 else "")


def _shift(read: Key | None, due: Key | None) -> int | None:
    """How many keys too far, where that is all that is wrong."""
    if read is None or due is None or (read.sequence, read.head) != (due.sequence, due.head):
        return None
    if read.position is None or due.position is None:
        return None
    return read.position - due.position


@dataclass(frozen=True)
class _Values:
    """Every row of V that a table names, [N, D] float64, with its page, row and KV head, and the tables themselves."""

    rows: Tensor
    pages: list[int]
    page_size: int
    heads: int
    table: list[list[int]]

    @classmethod
    def of(cls, case: Case, inputs: Inputs) -> "_Values":
        table = inputs.block_table.cpu()
        pages = [page for page in table.unique().tolist() if 0 <= page < len(inputs.v_cache)]
        values = inputs.v_cache[torch.tensor(pages, device=inputs.v_cache.device)].double().cpu()
        if inputs.v_descale is not None:
            values *= inputs.v_descale[0].double().cpu()[:, None]
        own = [row[:used] for row, used in zip(table.tolist(), case.pages, strict=True)]
        return cls(values.flatten(0, 2), pages, case.page_size, case.kv_heads, own)

    def nearest(self, output: Tensor, sequence: int) -> tuple[Key | None, float]:
        """The key that most of an output [D] is, and how much; a shared page counts as `sequence`'s own."""
        output = output.double().cpu().nan_to_num()
        length = self.rows.square().sum(1).clamp(min=1e-18)
        parts = self.rows @ output / length
        away = (output - parts[:, None] * self.rows).norm(dim=1) / length.sqrt()
        stands_out = (parts >= LEAST_PART) & (away <= parts / 2)
        if not stands_out.any():
            return None, 0.0
        at = int(torch.where(stands_out, away, torch.inf).argmin())
        index, head = divmod(at, self.heads)
        page, row = self.pages[index // self.page_size], index % self.page_size
        order = sorted(range(len(self.table)), key=lambda b: b != sequence)
        owner = next((b for b in order if page in self.table[b]), None)
        position = None if owner is None else self.table[owner].index(page) * self.page_size + row
        return Key(head, page, row, owner, position), float(parts[at])

    def shift(self, case: Case, out: Tensor, want: Tensor, token: int, head: int) -> int | None:
        """How many keys too far a row reads, where that is all that is wrong with it."""
        sequence, _ = locate(case, token)
        (read, _), (due, _) = (self.nearest(x[token, head], sequence) for x in (out, want))
        return _shift(read, due)
