"""K and V as they are found: caches, block table and descales, any of which a kernel may take for another."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs


@dataclass(frozen=True, eq=False)
class Pages:
    """Caches as stored [num_blocks, page_size, Hkv, D], table int64 [B, W], descales float64 [B, Hkv] or None."""

    k_cache: Tensor
    v_cache: Tensor
    table: Tensor
    page_size: int
    k_descale: Tensor | None
    v_descale: Tensor | None
    _rows: dict[int, tuple[Tensor, Tensor, bool]] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, case: Case, inputs: Inputs) -> Pages:
        """Where a case has them, on the CPU."""
        k, v = (None if x is None else x.double() for x in (inputs.k_descale, inputs.v_descale))
        return cls(inputs.k_cache, inputs.v_cache, inputs.block_table.long(), case.page_size, k, v)

    @property
    def room(self) -> int:
        """Keys that a row of the table has room for."""
        return self.table.shape[1] * self.page_size

    def rows(self, b: int, end: int) -> tuple[Tensor, Tensor, bool]:
        """K and V [Hkv, N, D] float64 of the keys of a sequence before `end`, and whether all are finite."""
        if b not in self._rows or self._rows[b][0].shape[1] < end:
            self._rows[b] = self._gathered(b, -(-end // self.page_size))
        k, v, finite = self._rows[b]
        return k[:, :end], v[:, :end], finite

    def _gathered(self, b: int, count: int) -> tuple[Tensor, Tensor, bool]:
        pages = self.table[b, :count]
        inside = (pages >= 0) & (pages < len(self.k_cache))
        pages = pages.where(inside, 0)  # what lies elsewhere nobody knows: a kernel that reads it faults, or is lucky
        k, v = (cache[pages].flatten(0, 1).transpose(0, 1).double() for cache in (self.k_cache, self.v_cache))
        k, v = (
            x.contiguous() if descale is None else x * descale[b][:, None, None]
            for x, descale in ((k, self.k_descale), (v, self.v_descale))
        )
        return k, v, bool(k.isfinite().all()) and bool(v.isfinite().all())
