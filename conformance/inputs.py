"""The inputs of a case: the same bits on every machine, and placed so that a defect shows.

Bits come from the raw stream of numpy's PCG64, which is stable between versions and platforms, and become unit normal
numbers by a table of quantiles: no arithmetic whose last bit could differ between processors.
"""

import hashlib
import math
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from conformance import regimes
from conformance.block_tables import Pages, assign
from conformance.case import DECODE, Case
from conformance.layouts import caches, untouched
from conformance.memory import refuse_too_much

VERSION = 2
"""Part of every result's digest: raise it when the bits of any input change."""

TORCH_DTYPE: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e4m3fn": torch.float8_e4m3fn,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2": torch.float8_e5m2,
}

K_DESCALE, V_DESCALE, Q_DESCALE = 0.25, 0.5, 2.0
"""Of a cache, or of q, in a smaller dtype than the output: powers of two, so that a dequantised value is exact; and not
alike, so that one taken for the other shows."""

OF_A_HEAD = (1.0, 2.0, 4.0)
"""Times the descale of a cache that one KV head after the other has, where they differ."""

OF_A_SEQUENCE = (1.0, 4.0, 2.0)
"""Times a descale that one sequence after the other has, where they differ."""

GUARD_ROWS = 8
"""Before and behind q: as many as leave it aligned to 16 bytes, which Triton compiles for, at any head dimension."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of one attention call; see `reference.attend` for their meaning.

    q [T, Hq, D], whose rows may lie apart; caches [num_blocks, block_size, Hkv, D] with the strides of the case's
    layout; block_table [B, W], seq_lens [B], query_start_loc [B + 1] int32; alibi_slopes and sinks [Hq], descales
    [B, Hkv] float32 or None. key and value [T, Hkv, D] are those of the new tokens, as the layer computed them and the
    caches hold them already; None where every sequence decodes.
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
    k_descale: Tensor | None = None
    v_descale: Tensor | None = None
    q_descale: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None

    def to(self, device: torch.device) -> "Inputs":
        """The same inputs elsewhere, strides and sharing of memory between K and V included.

        Raises NotEnoughMemory where a GPU has no room for them.
        """
        refuse_too_much(self.nbytes, device)
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

    @property
    def nbytes(self) -> int:
        """Bytes of memory behind all tensors, what lies between K and V and around q included."""
        memory = [value.untyped_storage() for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in memory}.values())

    def digest(self) -> str:
        """Of all bits, strides and numbers: equal on every device and torch version in use."""
        total = hashlib.sha256()
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                total.update(f"{f.name} {value.dtype} {tuple(value.shape)} {value.stride()}".encode())
                total.update(value.contiguous().view(torch.uint8).cpu().numpy().tobytes())
            elif value is not None:
                total.update(f"{f.name} {value!r}".encode())
        return total.hexdigest()


def make(case: Case) -> Inputs:
    """The inputs of a case, on the CPU."""
    bits = random_bits(case.id)
    cache_dtype = TORCH_DTYPE[case.cache_dtype or case.dtype]
    k_descale, v_descale = (K_DESCALE, V_DESCALE) if case.cache_dtype else (1.0, 1.0)
    pages = assign(case, bits)
    page = (case.page_size, case.kv_heads, case.head_dim)
    k, v = (_normal(bits, (pages.pool, *page), cache_dtype, scale) for scale in (k_descale, v_descale))
    q = _normal(bits, (case.tokens, case.q_heads, case.head_dim), TORCH_DTYPE[case.dtype])
    sinks = _normal(bits, (case.q_heads,), torch.float32) if case.sinks else None
    garbage = regimes.garbage(cache_dtype)
    regimes.apply(case, regimes.Values(q, k, v, sinks, k_descale, v_descale, garbage), pages, _scale(case))
    if case.per_head_descales:
        k, v = (stored / _of_a_head(case)[:, None] for stored in (k, v))
    if case.per_sequence_descales:
        k, v = (stored / _of_a_page(case, pages)[:, None, None, None] for stored in (k, v))
    k_cache, v_cache = caches(case.layout, pages.blocks, *page, cache_dtype, garbage)
    k_cache[pages.first :], v_cache[pages.first :] = k.to(cache_dtype), v.to(cache_dtype)
    return with_new_tokens(case, _call(case, pages, _stored(q, case), (k_cache, v_cache), sinks))


def blank(case: Case) -> Inputs:
    """The inputs of a case in all but value, for kernels that do not run: q, caches and sinks are zero.

    Lengths and block table are real, for host code reads them; a cache takes no memory, whatever its size.
    """
    pages = assign(case, random_bits(case.id))
    cache_dtype = TORCH_DTYPE[case.cache_dtype or case.dtype]
    both = untouched(case.layout, pages.blocks, case.page_size, case.kv_heads, case.head_dim, cache_dtype)
    q = torch.zeros(case.tokens, case.q_heads, case.head_dim, dtype=TORCH_DTYPE[case.q_dtype or case.dtype])
    return with_new_tokens(case, _call(case, pages, q, both, torch.zeros(case.q_heads) if case.sinks else None))


def with_new_tokens(case: Case, inputs: Inputs) -> Inputs:
    """The same call with the key and value of each new token, which are what the caches hold, dequantised.

    A decoding sequence has none to give: its rows are NaN, and so is what lies around them. They are rows of the fused
    projection that q is a view of, where it is; else each tensor is contiguous.
    """
    if case.step == DECODE:
        return inputs
    new = []
    for stored, descale in ((inputs.k_cache, inputs.k_descale), (inputs.v_cache, inputs.v_descale)):
        rows = torch.full((case.tokens, case.kv_heads, case.head_dim), torch.nan, dtype=TORCH_DTYPE[case.dtype])
        for b, (m, n, kind) in enumerate(zip(case.query_lens, case.seq_lens, case.kinds, strict=True)):
            if kind == DECODE:
                continue
            at = torch.arange(n - m, n)
            held = stored[inputs.block_table[b][at // case.page_size].long(), at % case.page_size]
            exact = held.float() * (1 if descale is None else descale[b][:, None])
            rows[case.query_starts[b] : case.query_starts[b] + m] = exact.to(rows.dtype)
        new.append(rows)
    if not case.fused_q or inputs.q.dtype != new[0].dtype:
        return replace(inputs, key=_amid_nan(new[0]), value=_amid_nan(new[1]))
    # Left of them in the same rows q is; the heads of K and V that `_amid_nan` left NaN between two rows are theirs.
    q, heads = inputs.q, (case.q_heads, case.q_heads + case.kv_heads)
    key, value = (
        q.as_strided(rows.shape, q.stride(), q.storage_offset() + head * case.head_dim)
        for head, rows in zip(heads, new, strict=True)
    )
    key.copy_(new[0])
    value.copy_(new[1])
    return replace(inputs, key=key, value=value)


def _call(case: Case, pages: Pages, q: Tensor, both: tuple[Tensor, Tensor], sinks: Tensor | None) -> Inputs:
    """All arguments of the call of a case, given those that hold values; `both` are the caches of K and V."""
    per_head, heads = torch.ones(case.batch, case.kv_heads), case.q_heads
    if case.per_sequence_descales:
        per_head = per_head * _of_a_sequence(case)[:, None]
    of_cache = per_head * _of_a_head(case) if case.per_head_descales else per_head
    return Inputs(
        q=_amid_nan(q, 2 * case.kv_heads if case.fused_q else 0),
        k_cache=both[0],
        v_cache=both[1],
        block_table=pages.block_table(case),
        seq_lens=torch.tensor(case.seq_lens, dtype=torch.int32),
        query_start_loc=torch.tensor(case.query_starts, dtype=torch.int32),
        scale=_scale(case),
        # Press, Smith & Lewis, "Train Short, Test Long" (2022): a geometric sequence over the heads
        alibi_slopes=torch.tensor([2.0 ** (-8 * h / heads) for h in range(1, heads + 1)]) if case.alibi else None,
        sinks=sinks,
        k_descale=of_cache * K_DESCALE if case.cache_dtype else None,
        v_descale=of_cache * V_DESCALE if case.cache_dtype else None,
        q_descale=per_head * Q_DESCALE if case.q_dtype else None,
    )


def _stored(q: Tensor, case: Case) -> Tensor:
    """The queries in the dtype that the kernel gets; what is too large for a float8 becomes its largest number."""
    if not case.q_dtype:
        return q
    dtype = TORCH_DTYPE[case.q_dtype]
    largest = torch.finfo(dtype).max
    descale = Q_DESCALE * _of_a_sequence(case).repeat_interleave(torch.tensor(case.query_lens))
    return (q.float() / descale[:, None, None]).clamp(-largest, largest).to(dtype)


def _of_a_head(case: Case) -> Tensor:
    """What each KV head's descales are times the first one's, float32 [Hkv]."""
    return torch.tensor([OF_A_HEAD[head % len(OF_A_HEAD)] for head in range(case.kv_heads)])


def _of_a_sequence(case: Case) -> Tensor:
    """What each sequence's descales are times the first one's, float32 [B]."""
    differ = case.per_sequence_descales
    return torch.tensor([OF_A_SEQUENCE[b % len(OF_A_SEQUENCE)] if differ else 1.0 for b in range(case.batch)])


def _of_a_page(case: Case, pages: Pages) -> Tensor:
    """The same of the sequence that owns each page, 1 where none does: float32 [pool]."""
    of_a_page = torch.ones(pages.pool)
    for row, used, factor in zip(pages.table.long(), case.pages, _of_a_sequence(case), strict=True):
        of_a_page[row[:used]] = factor
    return of_a_page


def queries(case: Case, inputs: Inputs) -> Tensor:
    """The queries [T, Hq, D] exact in the case's dtype, whichever they are stored in."""
    if inputs.q_descale is None:
        return inputs.q
    descale = inputs.q_descale.repeat_interleave(case.gqa_ratio, 1)  # [B, Hq]
    by_row = descale.repeat_interleave(torch.tensor(case.query_lens, device=descale.device), 0)
    return (inputs.q.float() * by_row[..., None]).to(TORCH_DTYPE[case.dtype])


def random_bits(text: str) -> np.random.PCG64:
    """A source of random bits that is that of this text alone."""
    return np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def _scale(case: Case) -> float:
    return case.scale or 1 / math.sqrt(case.head_dim)


def _amid_nan(q: Tensor, heads_between: int = 0) -> Tensor:
    """The same rows with NaN before and behind, and in so many heads after each row, where a projection has K and V.

    What a kernel reads there shows, whatever memory holds.
    """
    tokens, heads, head_dim = q.shape
    rows = torch.full((tokens + 2 * GUARD_ROWS, heads + heads_between, head_dim), torch.nan, dtype=q.dtype)
    amid = rows[GUARD_ROWS:-GUARD_ROWS, :heads]
    amid.copy_(q)
    return amid


def _normal(bits: np.random.PCG64, shape: tuple[int, ...], dtype: torch.dtype, descale: float = 1.0) -> Tensor:
    """Unit normal numbers over `descale`, one of 65,536 quantiles each, exact in `dtype` (a float8 as float32)."""
    count = int(np.prod(shape))
    words = bits.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
    # Four times as fast as indexing, of which most of the time that inputs take would be.
    return _quantiles(dtype, descale).index_select(0, torch.from_numpy(words.astype(np.int32))).view(shape)


@cache
def _quantiles(dtype: torch.dtype, descale: float = 1.0) -> Tensor:
    uniform = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    rounded = (torch.special.ndtri(uniform) / descale).to(dtype)
    return rounded.float() if dtype.itemsize == 1 else rounded
