"""The oracle: paged-KV attention in float64, and the sums that error budgets are made of."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.paging import gather_pages, readable_pages
from reference.visibility import diagonal, visible

VERSION = 1
"""Part of every result's digest: raise it when a result of `attend` can change by more than float64 rounding."""

LOWEST = torch.finfo(torch.float64).min
SMALLEST = 1e-150
"""Stands for the denominator of a row that saw nothing, whose sums are 0; its square is still a number."""

TILE_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
"""Size of a tile, its scores with its keys and values in float64: about a CPU's cache, and enough work for a GPU."""


@dataclass(frozen=True)
class RoundingSums:
    """What the rounding errors of a kernel scale with; p are the exact softmax weights, o the exact output.

    `A_k = scale * sum_d |q_d k_kd|` bounds a score, `B_k = scale**2 * sum_d q_d**2 k_kd**2` is its noise energy.
    All float64; [T, Hq, D] unless stated.
    """

    weighted_v: Tensor  # sum_k p_k |v_k|
    weighted_score_v: Tensor  # sum_k p_k A_k |v_k|
    weighted_score: Tensor  # sum_k p_k A_k                        [T, Hq]
    squared_v: Tensor  # sum_k p_k^2 v_k^2
    squared_score_deviation: Tensor  # sum_k p_k^2 B_k (v_k - o)^2
    visible_v: Tensor  # sum_k |v_k| / l, over visible keys; l is the denominator relative to the row maximum
    visible_v_squared: Tensor  # sum_k v_k^2 / l^2


@dataclass(frozen=True)
class PartSums:
    """What rounding scales with where a call is answered in parts, each over some of the keys, and these are merged.

    A part's output `o_i` has the share `w_i = exp(lse_i - lse)` of the whole, `o = sum_i w_i o_i`, and after some
    merges the running result is `r_j = sum_{i <= j} w_i o_i`; the last one, which is the output, is not summed here.
    All float64 [T, Hq, D], 0 where nothing was cut.
    """

    weighted: Tensor  # sum_i |w_i o_i|
    squared: Tensor  # sum_i (w_i o_i)^2
    running: Tensor  # sum_j |r_j|
    running_squared: Tensor  # sum_j r_j^2


@dataclass(frozen=True)
class Attention:
    """Exact attention: `out` [T, Hq, D] and `lse` [T, Hq] (natural logarithm of the denominator), float64."""

    out: Tensor
    lse: Tensor
    sums: RoundingSums | None = None
    parts: PartSums | None = None


@torch.no_grad()
def attend(  # noqa: PLR0915 - one statement more than a page holds
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    *,
    scale: float,
    causal: bool,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    q_descale: Tensor | None = None,
    key_range: tuple[Tensor, Tensor] | None = None,
    sums: bool = False,
    tile_bytes: int | None = None,
) -> Attention:
    """Attention of `q` [T, Hq, D] over paged caches [num_blocks, block_size, Hkv, D] of any strides.

    Sequence b owns queries `query_start_loc[b]:query_start_loc[b + 1]` and keys `0 <= j < seq_lens[b]`; key j lies in
    page `block_table[b, j // block_size]`, row `j % block_size`. Query head h reads KV head `h // (Hq // Hkv)`.
    Query i of m stands at `n - m + i`: that is its causal bound, the centre of its window and the origin of its ALiBi
    bias `slope[h] * (j - (n - m + i))`. `softcap > 0` maps a score s to `softcap * tanh(s / softcap)`, before the bias.
    `sinks` [Hq] adds `exp(sink)` to the denominator alone; `q_descale`, `k_descale`, `v_descale` [B, Hkv] scale the
    stored values. `key_range`, int64 [B] each, leaves of a sequence's keys only `first[b] <= j < last[b]` to be seen,
    and nothing else changes. A query that sees no key yields output 0 and lse -inf (its sink, if there is one).

    The stored low-precision values are exact. Keys are visited in tiles of about `tile_bytes` with a running maximum
    (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018), so memory does not grow with their count.
    With `sums=True` the result holds `RoundingSums`.

    Raises ValueError where `Hq` is no multiple of `Hkv`, where `query_start_loc` does not end at `T`, and where the
    table is too narrow for the longest sequence.
    """
    total, q_heads, head_dim = q.shape
    _, block_size, kv_heads, _ = k_cache.shape
    if q_heads % kv_heads:
        raise ValueError(f"{q_heads} query heads cannot share {kv_heads} KV heads evenly")
    group = q_heads // kv_heads
    batch = _Batch.sorted(seq_lens, query_start_loc)
    m, lens = batch.max_query_len, batch.keys.tolist()
    if len(batch.sorted_rows) != total:
        raise ValueError(f"query_start_loc counts {len(batch.sorted_rows)} queries, q has {total}")
    if max(lens, default=0) > block_table.shape[1] * block_size:
        raise ValueError(f"{max(lens)} keys do not fit {block_table.shape[1]} pages of {block_size}")
    if total == 0:
        return _nothing(q, sums)

    device = q.device
    order, keys, stand, padded_rows, sorted_rows = batch.on(device)
    q_descale, k_descale, v_descale = (
        None if x is None else x.double()[order] for x in (q_descale, k_descale, v_descale)
    )
    by_head = q[padded_rows].unflatten(2, (kv_heads, group)).permute(0, 2, 3, 1, 4)
    scaled_q = by_head.new_empty(by_head.shape, dtype=torch.float64).copy_(by_head).mul_(scale)
    if q_descale is not None:
        scaled_q.mul_(q_descale[:, :, None, None, None])
    rows = _Rows.empty(scaled_q.view(-1, kv_heads, group * m, head_dim), sums=sums)
    table = readable_pages(block_table[order], keys, block_size)
    first, last = (None, keys) if key_range is None else (key_range[0][order], key_range[1][order].minimum(keys))

    page_bytes = 8 * block_size * kv_heads * (group * m + 2 * head_dim)
    pages_in_a_tile = max(1, (tile_bytes or TILE_BYTES[device.type]) // page_bytes)
    for tile in _tiles(lens, block_size, pages_in_a_tile):
        alive, start, stop = tile.sequences, tile.first_page * block_size, tile.last_page * block_size
        pages, at = table[alive, tile.first_page : tile.last_page], torch.arange(start, stop, device=device)
        seen = unseen = None
        if causal or max(window) >= 0 or stop > lens[alive.stop - 1] or first is not None:
            begins = None if first is None else first[alive]
            seen = visible(stand[alive], last[alive], at, causal=causal, window=window, first=begins)
            unseen = ~seen.any(1)
        k = gather_pages(k_cache, pages, unseen, None if k_descale is None else k_descale[alive])
        v = gather_pages(v_cache, pages, unseen, None if v_descale is None else v_descale[alive])
        part = rows[alive]
        scores = part.q @ k.transpose(-1, -2)
        if softcap > 0:
            scores.div_(softcap).tanh_().mul_(softcap)
        by_query = scores.view(*scores.shape[:2], group, m, -1)
        if alibi_slopes is not None:
            slopes = alibi_slopes.double().view(kv_heads, group, 1, 1)
            by_query += slopes * (at - stand[alive][:, None, None, :, None])
        if seen is not None:
            by_query.masked_fill_(~seen[:, None, None], -math.inf)
        part.absorb(scores, k, v, seen, first=start == 0)

    if sinks is not None:
        per_row = sinks.double().view(1, kv_heads, group, 1).expand(len(order), -1, -1, m)
        rows.absorb_sink(per_row.reshape(-1, kv_heads, group * m))

    def packed(x: Tensor) -> Tensor:
        """[B, Hkv, G * m, ...] in sorted order -> [T, Hq, ...] as the caller packed its queries."""
        x = x.view(-1, kv_heads, group, m, *x.shape[3:]).movedim(3, 1)
        return x.reshape(-1, q_heads, *x.shape[4:])[sorted_rows]

    return rows.finish(packed)


@dataclass(frozen=True)
class _Batch:
    """Where everything is, int64 on the CPU, longest sequence first: those that have keys left are always a prefix."""

    order: Tensor  # the caller's index of each sequence, [B]
    keys: Tensor  # keys of each sequence, [B]
    stand: Tensor  # key position on which each query stands, [B, m]
    padded_rows: Tensor  # the caller's row of each query; another query's where there is none, [B, m]
    sorted_rows: Tensor  # the row in B * m of each of the caller's rows, [T]

    @classmethod
    def sorted(cls, seq_lens: Tensor, query_start_loc: Tensor) -> "_Batch":
        keys, starts = seq_lens.cpu().long(), query_start_loc.cpu().long()
        queries, starts, total = starts.diff(), starts[:-1], int(starts[-1])
        m = int(queries.max()) if len(queries) else 0
        order = keys.argsort(descending=True, stable=True)
        padded_rows = (starts[order, None] + torch.arange(m)).clamp(max=total - 1)
        # A row moves as far as the first row of its sequence does.
        sorted_rows = torch.arange(total) + (order.argsort() * m - starts).repeat_interleave(queries)
        keys = keys[order]
        return cls(order, keys, diagonal(queries[order], keys, m), padded_rows, sorted_rows)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The same five tensors on a device, in one transfer."""
        parts = (self.order, self.keys, self.stand, self.padded_rows, self.sorted_rows)
        moved = torch.cat([part.flatten() for part in parts]).to(device).split([part.numel() for part in parts])
        order, keys, stand, padded_rows, sorted_rows = (x.view_as(part) for x, part in zip(moved, parts, strict=True))
        return order, keys, stand, padded_rows, sorted_rows

    @property
    def max_query_len(self) -> int:
        return self.stand.shape[1]


@dataclass(frozen=True)
class _Tile:
    """A step: the sequences that still have keys (a prefix of the sorted batch) and a range of their table columns."""

    sequences: slice
    first_page: int
    last_page: int


def _tiles(lens: list[int], block_size: int, pages_in_a_tile: int) -> Iterator[_Tile]:
    """Cut the keys of a batch, longest sequence first, into tiles of whole pages."""
    for first in range(0, len(lens), pages_in_a_tile):  # more sequences than that are taken in parts
        part = lens[first : first + pages_in_a_tile]
        page, longest = 0, -(-part[0] // block_size)
        while alive := sum(n > page * block_size for n in part):
            last = min(page + max(1, pages_in_a_tile // alive), longest)
            yield _Tile(slice(first, first + alive), page, last)
            page = last


@dataclass(frozen=True)
class _Rows:
    """Running softmax of every (sequence, KV head, query row): tensors that `absorb` updates in place."""

    q: Tensor  # scaled, [B, Hkv, R, D]
    maximum: Tensor  # [B, Hkv, R]
    denominator: Tensor  # sum_k exp(s_k - maximum), [B, Hkv, R]
    out: Tensor  # sum_k p v, not yet divided, [B, Hkv, R, D]
    sums: tuple[Tensor, ...]  # |v|, A|v|, v^2 and B v^2 and B v (squared weights), visible |v|, visible v^2
    row_sums: tuple[Tensor, ...]  # p A, p^2 B: [B, Hkv, R]

    @classmethod
    def empty(cls, q: Tensor, *, sums: bool) -> "_Rows":
        row, q = q.shape[:3], q.contiguous()
        return cls(
            q=q,
            maximum=q.new_full(row, -math.inf),
            denominator=q.new_zeros(row),
            out=torch.zeros_like(q),
            sums=tuple(torch.zeros_like(q) for _ in range(7 if sums else 0)),
            row_sums=tuple(q.new_zeros(row) for _ in range(2 if sums else 0)),
        )

    def __getitem__(self, sequences: slice) -> "_Rows":
        return _Rows(
            self.q[sequences],
            self.maximum[sequences],
            self.denominator[sequences],
            self.out[sequences],
            tuple(x[sequences] for x in self.sums),
            tuple(x[sequences] for x in self.row_sums),
        )

    def absorb(self, scores: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, *, first: bool) -> None:
        """Take in a tile: scores [B, Hkv, R, C] (-inf where unseen; overwritten), k and v [B, Hkv, C, D].

        `seen` bool [B, m, C] is None where every query sees every key; `first` says that nothing was absorbed before.
        """
        self._raise_maximum(scores.amax(-1), rescale=not first)
        # A row that has seen no key yet has maximum -inf: subtract something finite, as exp(-inf - -inf) is NaN.
        p = scores.sub_(self.maximum.clamp(min=LOWEST)[..., None]).exp_()
        self.denominator.add_(p.sum(-1))
        _accumulate(self.out, p, v)
        if not self.sums:
            return
        p_a = (self.q.abs() @ k.abs().transpose(-1, -2)).mul_(p)
        p2 = p.square()
        p2_b = (self.q.square() @ k.square().transpose(-1, -2)).mul_(p2)
        self.row_sums[0].add_(p_a.sum(-1))
        self.row_sums[1].add_(p2_b.sum(-1))
        weighted_v, score_v, p2_v2, p2_b_v2, p2_b_v, visible_v, visible_v2 = self.sums
        _accumulate(p2_b_v, p2_b, v)
        v2 = v.square()
        _accumulate(p2_v2, p2, v2)
        _accumulate(p2_b_v2, p2_b, v2)
        abs_v = v.abs()
        _accumulate(weighted_v, p, abs_v)
        _accumulate(score_v, p_a, abs_v)
        for total, values in ((visible_v, abs_v), (visible_v2, v2)):
            if seen is None:
                total.add_(values.sum(2, keepdim=True))
            else:  # the same keys for every head: [B, 1, m, C]
                by_query = seen.double()[:, None] @ values
                total.unflatten(2, (-1, seen.shape[1])).add_(by_query[:, :, None])

    def absorb_sink(self, sink: Tensor) -> None:
        """A sink [B, Hkv, R] is one more key whose value is zero."""
        self._raise_maximum(sink, rescale=True)
        self.denominator.add_((sink - self.maximum.clamp(min=LOWEST)).exp())

    def _raise_maximum(self, candidate: Tensor, *, rescale: bool) -> None:
        if not rescale:
            self.maximum.copy_(candidate)
            return
        raised = torch.maximum(self.maximum, candidate)
        shrink = (self.maximum - raised).exp().masked_fill(raised == -math.inf, 1.0)
        self.maximum.copy_(raised)
        self.denominator.mul_(shrink)
        self.out.mul_(shrink[..., None])
        if self.sums:  # some are sums of squared weights
            by_power = (shrink, shrink.square())
            for x, power in zip(self.sums[:5], (1, 1, 2, 2, 2), strict=True):
                x.mul_(by_power[power - 1][..., None])
            for x, power in zip(self.row_sums, (1, 2), strict=True):
                x.mul_(by_power[power - 1])

    def finish(self, packed: Callable[[Tensor], Tensor]) -> Attention:
        """Divide by the denominator; a row that saw nothing has none, and yields 0."""
        denominator = self.denominator.clamp(min=SMALLEST)[..., None]
        out = self.out / denominator
        lse = packed(self.maximum + self.denominator.log())
        if not self.sums:
            return Attention(packed(out), lse)
        weighted_v, score_v, p2_v2, p2_b_v2, p2_b_v, visible_v, visible_v2 = self.sums
        p_a, p2_b = self.row_sums
        # sum p^2 B (v - o)^2, expanded; where one key has all the weight it cancels to nothing, hence the clamp
        deviation = (p2_b_v2 - 2 * out * p2_b_v + out.square() * p2_b[..., None]).clamp_(min=0.0)
        return Attention(
            packed(out),
            lse,
            RoundingSums(
                weighted_v=packed(weighted_v / denominator),
                weighted_score_v=packed(score_v / denominator),
                weighted_score=packed(p_a / denominator[..., 0]),
                squared_v=packed(p2_v2 / denominator**2),
                squared_score_deviation=packed(deviation / denominator**2),
                visible_v=packed(visible_v / denominator),
                visible_v_squared=packed(visible_v2 / denominator**2),
            ),
        )


def _accumulate(total: Tensor, weights: Tensor, values: Tensor) -> None:
    """`total += weights @ values` for each (sequence, head), in one pass over `total`."""
    total.view(-1, *total.shape[2:]).baddbmm_(weights.flatten(0, 1), values.flatten(0, 1))


def _nothing(q: Tensor, sums: bool) -> Attention:
    """The result for a batch without a single query."""
    out, lse = q.new_zeros(q.shape, dtype=torch.float64), q.new_zeros(q.shape[:2], dtype=torch.float64)
    return Attention(out, lse, RoundingSums(out, out, lse, out, out, out, out) if sums else None)
