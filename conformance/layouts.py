"""How K and V share memory: caches of the same logical shape with the strides that servers use."""

import math

import numpy as np
import torch
from torch import Tensor

LAYERS, LAYER = 3, 1
"""Of a pool that several layers share: their number, and the one that is attended to."""

PADDING = (8, 16)
"""Elements after each row of a padded cache, of K and of V: not alike, so that strides of the wrong one show."""


def caches(
    layout: str, blocks: int, page_size: int, heads: int, head_dim: int, dtype: torch.dtype, garbage: float
) -> tuple[Tensor, Tensor]:
    """K and V, zero, each [blocks, page_size, heads, head_dim]; memory between them that is neither holds `garbage`."""
    shape = (blocks, page_size, heads, head_dim)
    if layout == "packed":  # one row holds K then V
        both = _zeros((blocks, heads, page_size, 2 * head_dim), dtype).transpose(1, 2)
        return both[..., :head_dim], both[..., head_dim:]
    if layout == "interleaved":  # a page of K, then its page of V
        both = _zeros((blocks, 2, page_size, heads, head_dim), dtype)
        return both[:, 0], both[:, 1]
    if layout == "padded":
        k, v = (torch.full((*shape[:3], head_dim + after), garbage).to(dtype)[..., :head_dim] for after in PADDING)
    elif layout == "sliced":
        k, v = (torch.full((blocks, LAYERS, *shape[1:]), garbage).to(dtype)[:, LAYER] for _ in "kv")
    else:
        return _zeros(shape, dtype), _zeros(shape, dtype)
    return k.zero_(), v.zero_()


def untouched(
    layout: str, blocks: int, page_size: int, heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The same, all zero, in memory that nobody has touched: at hand at once, whatever its size."""
    memory: dict[int, Tensor] = {}

    def every_page(one: Tensor) -> Tensor:
        own = one.untyped_storage()
        if own.data_ptr() not in memory:
            memory[own.data_ptr()] = _zeros((blocks * own.nbytes() // dtype.itemsize,), dtype)
        return memory[own.data_ptr()].as_strided((blocks, *one.shape[1:]), one.stride(), one.storage_offset())

    k, v = caches(layout, 1, page_size, heads, head_dim, dtype, 0.0)  # one page tells how the others lie
    return every_page(k), every_page(v)


def page_stride(layout: str, page_size: int, heads: int, head_dim: int) -> int:
    """Elements from one page to the next of the same cache; the fewer of the two, where K and V differ."""
    rows = page_size * heads
    return {
        "packed": 2 * rows * head_dim,
        "interleaved": 2 * rows * head_dim,
        "padded": rows * (head_dim + min(PADDING)),
        "sliced": LAYERS * rows * head_dim,
    }.get(layout, rows * head_dim)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory until they are written: numpy's come untouched from the operating system."""
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
