"""The inputs of a case: the same bits on every machine, and placed so that a defect shows.

Bits come from the raw stream of numpy's PCG64, which is stable between versions and platforms, and become unit normal
numbers by a table of quantiles: no arithmetic whose last bit could differ between processors.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from conformance.case import Case
from conformance.needles import plant

VERSION = 1
"""Part of every result's digest: raise it when the bits of any input change."""

TORCH_DTYPE: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

SPARE_PAGES = 3
"""Pages of the pool that no sequence owns; page 0 is one of them, as a server's padding names it."""

GARBAGE = 3.0e4
"""Huge but finite in every dtype: what a recycled page may hold."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of one attention call; see `reference.attend` for their meaning.

    q [T, Hq, D]; caches [num_blocks, block_size, Hkv, D] with the strides of the case's layout; block_table [B, W],
    seq_lens [B], query_start_loc [B + 1] int32; alibi_slopes and sinks [Hq] float32 or None.
    """

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_table: Tensor
    seq_lens: Tensor
    query_start_loc: Tensor
    scale: float
    alibi_slopes: Tensor | None
    sinks: Tensor | None

    def to(self, device: torch.device) -> "Inputs":
        """The same inputs elsewhere, strides and sharing of memory between K and V included."""
        pools: dict[int, Tensor] = {}

        def move(value: object) -> object:
            if not isinstance(value, Tensor):
                return value
            memory = value.untyped_storage()
            if memory.data_ptr() not in pools:
                everything = value.as_strided((memory.nbytes() // value.itemsize,), (1,), 0)
                pools[memory.data_ptr()] = everything.to(device)
            return pools[memory.data_ptr()].as_strided(value.shape, value.stride(), value.storage_offset())

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def digest(self) -> str:
        """Of all bits, strides and numbers: equal on every device and torch version in use."""
        total = hashlib.sha256()
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                total.update(f"{f.name} {value.dtype} {tuple(value.shape)} {value.stride()}".encode())
                total.update(value.contiguous().view(torch.uint8).cpu().numpy().tobytes())
            else:
                total.update(f"{f.name} {value!r}".encode())
        return total.hexdigest()


def make(case: Case) -> Inputs:
    """The inputs of a case, on the CPU."""
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(case.id.encode()).digest()[:16], "little"))
    dtype = TORCH_DTYPE[case.dtype]
    block_table, owned = _block_table(case, bits)
    pool = sum(case.pages) + SPARE_PAGES
    k_cache, v_cache = (_normal(bits, (pool, case.page_size, case.kv_heads, case.head_dim), dtype) for _ in "kv")
    q = _normal(bits, (case.tokens, case.q_heads, case.head_dim), dtype)
    if case.regime == "needle":
        plant(case, q, k_cache, block_table)
    elif case.regime != "random":
        _poison(case.regime, case, k_cache, v_cache, block_table, owned)
    k_cache, v_cache = _lay_out(case.layout, k_cache, v_cache)
    heads = case.q_heads
    return Inputs(
        q=q,
        k_cache=k_cache,
        v_cache=v_cache,
        block_table=block_table,
        seq_lens=torch.tensor(case.seq_lens, dtype=torch.int32),
        query_start_loc=torch.tensor(case.query_starts, dtype=torch.int32),
        scale=case.head_dim**-0.5,
        # Press, Smith & Lewis, "Train Short, Test Long" (2022): a geometric sequence over the heads
        alibi_slopes=torch.tensor([2.0 ** (-8 * h / heads) for h in range(1, heads + 1)]) if case.alibi else None,
        sinks=_normal(bits, (case.q_heads,), torch.float32) if case.sinks else None,
    )


def _normal(bits: np.random.PCG64, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Unit normal numbers, one of 65,536 quantiles each."""
    count = int(np.prod(shape))
    words = bits.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count]
    return _quantiles(dtype)[torch.from_numpy(words.astype(np.int32))].view(shape)


@cache
def _quantiles(dtype: torch.dtype) -> Tensor:
    uniform = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    return torch.special.ndtri(uniform).to(dtype)


def _block_table(case: Case, bits: np.random.PCG64) -> tuple[Tensor, Tensor]:
    """A table of shuffled pages, and the ids of the pages that sequences own.

    Entries past a sequence's last page name page 0, which no sequence owns.
    """
    used = sum(case.pages)
    shuffled = np.argsort(bits.random_raw(used + SPARE_PAGES - 1), kind="stable")[:used] + 1
    owned = torch.from_numpy(shuffled.astype(np.int32))
    table = torch.zeros(case.batch, max(1, *case.pages) * case.table_width, dtype=torch.int32)
    for row, pages in zip(table, owned.split(list(case.pages)), strict=True):
        row[: len(pages)] = pages
    return table, owned


def _poison(regime: str, case: Case, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, owned: Tensor) -> None:
    """Spoil, in place, what no correct kernel may let through to its output.

    Three contracts, told apart: `pages`, that no sequence owns, hold NaN, and the table's unused entries name them;
    `tails`, the rows of a last page past its last key, hold NaN; or they hold finite `garbage`.
    """
    if regime == "poison.pages":
        free = torch.ones(k_cache.shape[0], dtype=torch.bool)
        free[owned.long()] = False
        for pool in (k_cache, v_cache):
            pool[free] = torch.nan
        return
    for row, keys in zip(block_table, case.seq_lens, strict=True):
        page, tail = divmod(keys, case.page_size)
        if tail:
            for pool, sign in ((k_cache, 1), (v_cache, -1)):
                pool[row[page].long(), tail:] = torch.nan if regime == "poison.tails" else sign * GARBAGE


def _lay_out(layout: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The same values as views with the strides that servers use."""
    if layout == "packed":  # one row holds K then V: [blocks, Hkv, page, 2 D], transposed and split
        both = torch.cat((k, v), -1).transpose(1, 2).contiguous().transpose(1, 2)
        return both[..., : k.shape[-1]], both[..., k.shape[-1] :]
    if layout == "interleaved":  # a page of K, then its page of V: [blocks, 2, page, Hkv, D]
        both = torch.stack((k, v), 1)
        return both[:, 0], both[:, 1]
    return k, v
