"""Online softmax gone wrong: the running maximum, the denominator, tiles and splits that are merged."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from conformance.inputs import TORCH_DTYPE
from conformance.triage.counterfactuals import Counterfactual, Variant
from conformance.triage.question import Question
from conformance.triage.softmax import TILES, BlindSegments, Tiled

ONE_TILE = 1 << 20
"""As long as any sequence: tiles make no difference."""

SPLITS = (2, 3, 4, 5, 8, 16)


def _tiled(of: Callable[[int], Tiled], *, least_tiles: int = 2) -> Callable[[Question], Iterable[Variant]]:
    """With every size of a tile that cuts the longest sequence."""

    def change(question: Question) -> Iterable[Variant]:
        for tile in TILES:
            if max(question.lens) > tile * (least_tiles - 1):
                yield f"in tiles of {tile} keys", replace(question, softmax=of(tile))

    return change


def _with_maximum(
    maximum: Callable[[Tensor, Tensor, int], Tensor], tiles: tuple[int, ...]
) -> Callable[[Question], Iterable[Variant]]:
    """Another row maximum: weights overflow in float32, or, where they meet V, in the dtype of the case."""

    def change(question: Question) -> Iterable[Variant]:
        dtype = TORCH_DTYPE[question.case.dtype]
        for tile in tiles:
            words = "" if tile == ONE_TILE else f"in tiles of {tile} keys"
            softmax = Tiled(tile=tile, maximum=maximum, dtype=torch.float32, round_p=lambda p: p.to(dtype).float())
            yield words, replace(question, softmax=softmax)

    return change


def _unweighted(question: Question) -> Iterable[Variant]:
    """Where a split ends is a matter of tiles, and within one their size matters no more."""
    for tile in TILES:
        for splits in SPLITS:
            if max(question.lens) > tile:
                softmax = Tiled(tile=tile, splits=splits, merges_by_weight=False)
                yield f"{splits} splits, in tiles of {tile} keys", replace(question, softmax=softmax)


def _no_maximum(running: Tensor, tile: Tensor, first: int) -> Tensor:
    return torch.zeros_like(running)


def _of_the_first_tile(running: Tensor, tile: Tensor, first: int) -> Tensor:
    return running if first else tile


def _of_all_heads(running: Tensor, tile: Tensor, first: int) -> Tensor:
    return torch.maximum(running, tile).amax(0).expand_as(running)


def _at_least_0(running: Tensor, tile: Tensor, first: int) -> Tensor:
    return torch.maximum(running, tile).clamp(min=0.0)


def _after_blind_segments(question: Question) -> Iterable[Variant]:
    for size in (16, 32, 64, 128, 256, 512):
        if max(question.lens) > size:
            yield f"segments of {size} keys", replace(question, softmax=BlindSegments(size))


TABLE = (
    Counterfactual(
        name="no row maximum",
        says="exponentials were taken without the row maximum, in float32",
        change=_with_maximum(_no_maximum, (ONE_TILE,)),
    ),
    Counterfactual(
        name="maximum of a blind segment",
        says="a segment in which a row sees no key had a maximum of 0 in place of none, so that low scores underflow",
        change=_after_blind_segments,
    ),
    Counterfactual(
        name="row maximum at least 0",
        says="the row maximum were at least 0, so that weights of low scores underflow in float32",
        change=_with_maximum(_at_least_0, (ONE_TILE,)),
        rank=1,
    ),
    Counterfactual(
        name="maximum of the first tile",
        says="the row maximum were that of the first tile, in float32",
        change=_with_maximum(_of_the_first_tile, TILES),
    ),
    Counterfactual(
        name="one maximum for all heads",
        says="all heads shared one row maximum, in float32",
        applies=lambda question: question.case.q_heads > 1,
        change=_with_maximum(_of_all_heads, TILES),
    ),
    Counterfactual(
        name="accumulator not rescaled",
        says="the accumulator were not rescaled where the row maximum rises",
        change=_tiled(lambda tile: Tiled(tile=tile, rescales=False)),
    ),
    Counterfactual(
        name="denominator misses the first tile",
        says="the first tile were missing in the denominator",
        change=_tiled(lambda tile: Tiled(tile=tile, counts_first_tile=False)),
    ),
    Counterfactual(
        name="denominator counts masked keys",
        says="masked keys counted in the denominator",
        change=_tiled(lambda tile: Tiled(tile=tile, counts_masked=True), least_tiles=1),
    ),
    Counterfactual(
        name="splits merged without weights",
        says="splits were merged without rescaling them to a common maximum",
        change=_unweighted,
    ),
)
