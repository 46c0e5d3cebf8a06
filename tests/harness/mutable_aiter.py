"""An AITER of one small Triton kernel, whose mutants are killed, survive, are not reached, and hang."""

from __future__ import annotations

from pathlib import Path

VERSION = "1.2.3"
MODULE = "aiter.ops.triton.small_decode"

KERNELS = """import triton
import triton.language as tl

FACTOR = 1.0


@triton.jit
def _weight(score, largest):
    return tl.exp(score - largest)


@triton.jit
def _fwd_kernel_splitK(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, table_ptr, lens_ptr, scale, factor, queries, heads, ratio, width,
    stride_kz, stride_kn, stride_kh, stride_vz, stride_vn, stride_vh, PAGE: tl.constexpr, D: tl.constexpr,
):
    row = tl.program_id(0)
    head = row % heads
    sequence = row // heads // queries
    keys = tl.minimum(tl.load(lens_ptr + sequence), 2000000)  # survives: no cache is so long
    if keys > 1000000:
        keys = keys - 5  # not reached
    offs = tl.arange(0, D)
    q = tl.load(q_ptr + row * D + offs).to(tl.float32) * scale * factor
    largest = float("-inf")
    total = 0.0
    acc = tl.zeros([D], dtype=tl.float32)
    j = 0
    while j < keys:
        page = tl.load(table_ptr + sequence * width + j // PAGE)
        k = tl.load(k_ptr + page * stride_kz + (j % PAGE) * stride_kn + head // ratio * stride_kh + offs)
        v = tl.load(v_ptr + page * stride_vz + (j % PAGE) * stride_vn + head // ratio * stride_vh + offs)
        score = tl.sum(q * k.to(tl.float32), 0)
        higher = tl.maximum(largest, score)
        alpha = _weight(largest, higher)
        acc = acc * alpha + _weight(score, higher) * v.to(tl.float32)
        total = total * alpha + _weight(score, higher)
        largest = higher
        j += 1  # hangs where it is lost
    tl.store(out_ptr + row * D + offs, (acc / total).to(out_ptr.dtype.element_ty))
    tl.store(lse_ptr + row, largest + tl.log(total))
"""

DECODE = """import torch
import triton

from aiter.ops.triton.small_decode import FACTOR, _fwd_kernel_splitK

autotuned = triton.autotune(configs=[triton.Config({}, num_warps=4)], key=[])(_fwd_kernel_splitK)


def flash_attn_with_kvcache(q, k, v, cache_seqlens, softmax_scale, page_table, **nothing_asked):
    b, m, heads, d = q.shape
    out, lse = torch.empty_like(q), torch.empty(b, m, heads)
    autotuned[(b * m * heads,)](
        q, k, v, out, lse, page_table, cache_seqlens, softmax_scale, FACTOR, m, heads, heads // k.shape[2],
        page_table.stride(0), *k.stride()[:3], *v.stride()[:3], PAGE=k.shape[1], D=d,
    )
    return out, lse.transpose(1, 2)
"""

UNIFIED = "def unified_attention(**arguments): raise NotImplementedError\n"


def write(root: Path, kernels: str = KERNELS) -> Path:
    """The source tree, with `kernels` for its module of kernels."""
    folder = root / "aiter/ops/triton"
    (folder / "attention").mkdir(parents=True, exist_ok=True)
    (root / "aiter/_version.py").write_text(f'version = "{VERSION}"\n')
    (folder / "small_decode.py").write_text(kernels)
    (folder / "attention/mha_v3.py").write_text(DECODE)
    (folder / "attention/unified_attention.py").write_text(UNIFIED)
    return root


def line(text: str) -> int:
    """The number of the first line of KERNELS that holds `text`."""
    return next(number for number, said in enumerate(KERNELS.splitlines(), 1) if text in said)
