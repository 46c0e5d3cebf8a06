"""Layouts: the strides they claim, every value where a kernel looks for it, and nothing usable between."""

import pytest
import torch

from conformance.case import LAYOUTS, PAGE_ORDERS, Case
from conformance.inputs import make
from conformance.layouts import LAYER, LAYERS, PADDING, caches, page_stride
from conformance.regimes import GARBAGE

P, H, D = 4, 3, 16  # page size, KV heads, head dimension: all different, so that no two strides are alike by chance
WIDE, WIDER = (D + after for after in PADDING)

STRIDES = {
    "contiguous": (P * H * D, H * D, D, 1),
    "packed": (H * P * 2 * D, 2 * D, P * 2 * D, 1),
    "interleaved": (2 * P * H * D, H * D, D, 1),
    "padded": (P * H * WIDE, H * WIDE, WIDE, 1),
    "sliced": (LAYERS * P * H * D, H * D, D, 1),
}
"""Of [block, row, KV head, dim], in elements."""

APART = {"packed": D, "interleaved": P * H * D}
"""From K to V, where they share memory."""

STRIDES_OF_V = STRIDES | {"padded": (P * H * WIDER, H * WIDER, WIDER, 1)}

OFFSET = {"sliced": LAYER * P * H * D}


def numbered(layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Caches in which every element has a value of its own."""
    k, v = caches(layout, 5, P, H, D, torch.float32, GARBAGE)
    numbers = torch.arange(k.numel(), dtype=torch.float32).view(k.shape)
    k[:], v[:] = numbers, -numbers - 1
    return k, v


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_the_strides_it_claims(layout: str) -> None:
    k, v = numbered(layout)
    assert k.shape == v.shape == (5, P, H, D)
    assert (k.stride(), v.stride()) == (STRIDES[layout], STRIDES_OF_V[layout])
    assert k.stride(0) == page_stride(layout, P, H, D)
    shared = k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    assert shared == (layout in APART)
    assert v.storage_offset() - k.storage_offset() == APART.get(layout, 0)
    assert k.storage_offset() == OFFSET.get(layout, 0)
    assert (layout == "contiguous") == (k.is_contiguous() and v.is_contiguous())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_two_elements_share_memory(layout: str) -> None:
    k, v = numbered(layout)
    numbers = torch.arange(k.numel(), dtype=torch.float32).view(k.shape)
    assert torch.equal(k, numbers)
    assert torch.equal(v, -numbers - 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_lies_between_is_garbage(layout: str) -> None:
    """A kernel that takes a stride to be shorter than it is reads what is no key."""
    k, v = numbered(layout)
    for cache, padding in zip((k, v), PADDING, strict=True):
        memory = cache.as_strided((cache.untyped_storage().nbytes() // 4,), (1,), 0)
        between = memory[(memory.abs() > k.numel()) | (memory == 0)]
        total = {"padded": 5 * P * H * padding, "sliced": 5 * (LAYERS - 1) * P * H * D}.get(layout, 0)
        assert int((between == GARBAGE).sum()) == total


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", PAGE_ORDERS[:-1])
def test_caches_are_zero_where_no_page_is_used(layout: str, order: str) -> None:
    """Pages below the first high one are there, hold nothing, and are not those of a sequence."""
    case = Case.parse(f"decode-noncausal-bf16-b2-q2-h{H}:{H}-d{D}-p{P}-kv9+6-pages.{order}-{layout}-random".replace(
        "-pages.shuffled", ""))  # fmt: skip
    made = make(case)
    used = torch.zeros(len(made.k_cache), dtype=torch.bool)
    used[made.block_table.long()] = True
    assert bool(made.k_cache[used].any(-1).all())
    assert bool(made.v_cache[used].any(-1).all())
    if order == "high":
        assert not made.k_cache[:65536].any()
        assert (made.k_cache.stride(), made.v_cache.stride()) == (STRIDES[layout], STRIDES_OF_V[layout])


def test_everything_is_written_down() -> None:
    assert set(STRIDES) == set(LAYOUTS)
