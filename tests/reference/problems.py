"""Attention problems as sequences of keys, and the paged caches, in any layout, that hold them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference import Attention, attend
from tests.reference import naive

LAYOUTS = ("contiguous", "heads first", "packed", "interleaved", "padded", "keys innermost")

SPARE_PAGES = 3
"""Pages of every pool that no sequence owns."""

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)


@dataclass(frozen=True)
class Problem:
    """A batch: queries [m, Hq, D], keys and values [n, Hkv, D] of each sequence; the rest is as in `attend`."""

    q: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    scale: float
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    k_descale: Tensor | None = None
    v_descale: Tensor | None = None

    def paged(
        self, *, page_size: int = 4, layout: str = "contiguous", shuffle: int = 0, poison: bool = True
    ) -> dict[str, Any]:
        """The arguments of `attend`, pages placed at random by `shuffle`.

        Unless told otherwise all that no query may look at is NaN, spare pages and the tails of last pages, and the
        block table is wider than needed, its unused entries out of range or the id of a spare page.
        """
        lens = [len(k) for k in self.k]
        counts = [-(-n // page_size) for n in lens]
        pool = sum(counts) + SPARE_PAGES
        places = torch.randperm(pool, generator=torch.Generator().manual_seed(shuffle)).tolist()
        owned, spare = iter(places[SPARE_PAGES:]), places[:SPARE_PAGES]

        _, kv_heads, head_dim = self.k[0].shape
        shape = (pool, page_size, kv_heads, head_dim)
        filler = torch.nan if poison else 0.0
        k_pages, v_pages = (torch.full(shape, filler).to(x[0].dtype) for x in (self.k, self.v))
        junk = itertools.cycle([-1, 2**31 - 1, spare[0]] if poison else [0])
        table = [[next(junk) for _ in range(max(counts) + 2)] for _ in lens]
        for row, count, k, v in zip(table, counts, self.k, self.v, strict=True):
            row[:count] = itertools.islice(owned, count)
            for page, k_rows, v_rows in zip(row[:count], k.split(page_size), v.split(page_size), strict=False):
                k_pages[page, : len(k_rows)] = k_rows
                v_pages[page, : len(v_rows)] = v_rows

        k_cache, v_cache = lay_out(k_pages, v_pages, layout)
        return {
            "q": torch.cat(self.q),
            "k_cache": k_cache,
            "v_cache": v_cache,
            "block_table": torch.tensor(table, dtype=torch.int32),
            "seq_lens": torch.tensor(lens, dtype=torch.int32),
            "query_start_loc": torch.tensor([0, *itertools.accumulate(len(q) for q in self.q)], dtype=torch.int32),
            "scale": self.scale,
            "causal": self.causal,
            "window": self.window,
            "softcap": self.softcap,
            "alibi_slopes": self.alibi_slopes,
            "sinks": self.sinks,
            "k_descale": self.k_descale,
            "v_descale": self.v_descale,
        }

    def attend(self, *, sums: bool = False, tile_bytes: int | None = None, **paging: Any) -> Attention:
        """What the oracle makes of it."""
        return attend(**self.paged(**paging), sums=sums, tile_bytes=tile_bytes)

    def naive(self, **paging: Any) -> Attention:
        """What one key at a time makes of it."""
        return naive.attend(**self.paged(**paging))

    def seen(self) -> list[Tensor]:
        """Bool [m, n] for each sequence: which key does a query see?"""
        return [
            torch.tensor(
                [
                    [naive.sees(i, j, len(q), len(k), causal=self.causal, window=self.window) for j in range(len(k))]
                    for i in range(len(q))
                ],
                dtype=torch.bool,
            ).view(len(q), len(k))
            for q, k in zip(self.q, self.k, strict=True)
        ]

    def sees_a_key(self) -> Tensor:
        """Bool [T]: the queries with at least one key in sight."""
        return torch.cat([seen.any(-1) for seen in self.seen()])


def random_problem(
    query_lens: Sequence[int],
    seq_lens: Sequence[int],
    *,
    q_heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    alibi: bool = False,
    sinks: bool = False,
    descale: bool = False,
    **rest: Any,
) -> Problem:
    """Unit normal queries, keys and values, stored as `dtype` (queries of an 8-bit cache as bfloat16)."""
    bits = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=bits, dtype=torch.float64)

    q_dtype = torch.bfloat16 if dtype in FLOAT8 else dtype
    scales = (len(seq_lens), kv_heads)
    return Problem(
        q=tuple(normal(m, q_heads, head_dim).to(q_dtype) for m in query_lens),
        k=tuple(normal(n, kv_heads, head_dim).to(dtype) for n in seq_lens),
        v=tuple(normal(n, kv_heads, head_dim).to(dtype) for n in seq_lens),
        scale=rest.pop("scale", head_dim**-0.5),
        alibi_slopes=-normal(q_heads).float().sigmoid() if alibi else None,
        sinks=2 * normal(q_heads).float() if sinks else None,
        k_descale=normal(*scales).float().exp() if descale else None,
        v_descale=normal(*scales).float().exp() if descale else None,
        **rest,
    )


def lay_out(k: Tensor, v: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The same values [num_blocks, block_size, Hkv, D] with other strides; gaps that the strides leave hold NaN."""
    match layout:
        case "contiguous":
            return k, v
        case "heads first":  # [blocks, Hkv, page, D]
            k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
            return k, v
        case "packed":  # a row holds K then V: [blocks, Hkv, page, 2 D]
            both = torch.cat((k, v), -1).transpose(1, 2).contiguous().transpose(1, 2)
            return both[..., : k.shape[-1]], both[..., k.shape[-1] :]
        case "interleaved":  # a page of K, then its page of V: [blocks, 2, page, Hkv, D]
            k, v = torch.stack((k, v), 1).unbind(1)
            return k, v
        case "padded":  # room after each row, head, token and page, and an offset
            return _padded(k), _padded(v)
        case "keys innermost":  # [blocks, Hkv, D, page]
            k, v = (x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in (k, v))
            return k, v
    raise ValueError(layout)


def _padded(x: Tensor) -> Tensor:
    room = torch.full([extent + extra for extent, extra in zip(x.shape, (2, 1, 2, 3), strict=True)], torch.nan)
    inner = room.to(x.dtype)[1:-1, 1:, 1:-1, 2:-1]
    inner.copy_(x)
    return inner
