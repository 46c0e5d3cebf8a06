"""A small interpreted kernel with known results: proof, in every process, that the mends of the interpreter took hold.

Importing this module imports Triton; only an activated interpreter target does so.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from conformance.targets.triton_internals import unknown_interpreter

SIZE = 16


@triton.jit
def _probe(a_ptr, b_ptr, product_ptr, scaled_ptr, largest_ptr, scale, size: tl.constexpr):
    row = tl.arange(0, size)
    tile = row[:, None] * size + row[None, :]
    a = tl.load(a_ptr + tile)
    b = tl.load(b_ptr + tile)
    tl.store(product_ptr + tile, tl.dot(a, b))
    tl.store(scaled_ptr + tile, (a * scale).to(a.dtype))
    tl.store(largest_ptr + row, tl.max(tl.where(tile < size, float("nan"), a * b), 0))


def check() -> None:
    """Runs a bfloat16 product, a scaling that rounds and a maximum with NaN; TargetError if one is not as in torch."""
    values = torch.arange(SIZE * SIZE, dtype=torch.float32).reshape(SIZE, SIZE) / 64 - 2
    a, b = values.to(torch.bfloat16), values.T.to(torch.bfloat16).contiguous()
    product = torch.empty(SIZE, SIZE)
    scaled, largest = torch.empty_like(a), torch.empty(SIZE)
    kernel: Any = _probe
    try:
        kernel[(1,)](a, b, product, scaled, largest, 0.3, SIZE)
    except Exception as error:
        raise unknown_interpreter(f"after the mends it fails: {error}") from error
    expected = {
        "bfloat16 product": (product, a.float() @ b.float()),
        "bfloat16 rounding": (scaled, (a.float() * torch.tensor(0.3)).to(torch.bfloat16)),
        "maximum": (largest, (a * b)[1:].max(0).values.float()),
    }
    for what, (found, right) in expected.items():
        if not torch.equal(found, right):
            raise unknown_interpreter(f"after the mends its {what} is still wrong")
