"""What is rounded more than is declared, simulated: a budget that is large enough would explain any error."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from conformance.inputs import TORCH_DTYPE
from conformance.rounding import RoundingProfile
from conformance.triage.causes.scores import LOG2E
from conformance.triage.counterfactuals import Counterfactual, Variant, once
from conformance.triage.question import Question
from conformance.triage.softmax import TILES, Tiled

HALF = (("bf16", torch.bfloat16), ("fp16", torch.float16))


def _through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: x.float().to(dtype).double()


def truncated(x: Tensor) -> Tensor:
    """Cut off to bf16 instead of rounded."""
    return (x.float().view(torch.int32) & ~0xFFFF).view(torch.float32).double()


def _weights(round_p: Callable[[Tensor], Tensor]) -> Callable[[Question], Iterable[Variant]]:
    """Weights relative to the running maximum: which that is, the size of a tile says."""

    def change(question: Question) -> Iterable[Variant]:
        for tile in TILES:
            yield f"in tiles of {tile} keys", replace(question, softmax=Tiled(tile=tile, round_p=round_p))

    return change


def _sums(round_sum: Callable[[Tensor], Tensor]) -> Callable[[Question], Iterable[Variant]]:
    def change(question: Question) -> Iterable[Variant]:
        for tile in TILES:
            yield f"in tiles of {tile} keys", replace(question, softmax=Tiled(tile=tile, round_sum=round_sum))

    return change


def _scores(dtype: torch.dtype) -> Callable[[Question], Iterable[Variant]]:
    """Rounded as scores in base 2, as natural ones, or before they are scaled."""

    def change(question: Question) -> Iterable[Variant]:
        for words, unit in (("in base 2", LOG2E), ("", 1.0), ("before they are scaled", 1 / question.scale)):
            yield words, replace(question, round_scores=lambda s, unit=unit: _through(dtype)(s * unit) / unit)

    return change


def _rounded_q(question: Question) -> Iterable[Variant]:
    """Queries times scale and log2(e), or times scale, to their own dtype."""
    dtype = TORCH_DTYPE[question.case.dtype]
    for words, unit in (("times scale and log2(e)", question.scale * LOG2E), ("times scale", question.scale)):
        yield words, replace(question, q=_through(dtype)(question.q * unit) / unit)


def with_rounded_q(question: Question, profile: RoundingProfile | None) -> Question:
    """The question with q rounded as a kernel declares: what it rounds after that depends on each bit of its scores."""
    if profile is None or profile.scaled_q is None or profile.scaled_q not in TORCH_DTYPE:
        return question
    unit = question.scale * LOG2E
    return replace(question, q=_through(TORCH_DTYPE[profile.scaled_q])(question.q * unit) / unit)


def as_declared(question: Question, profile: RoundingProfile) -> Iterable[Question]:
    """The question with what a kernel declares to round, rounded: q, and the weights relative to each tile's maxima."""
    question = with_rounded_q(question, profile)
    if (dtype := TORCH_DTYPE.get(profile.p)) is None:
        yield question
        return
    for tile in TILES:
        yield replace(question, softmax=Tiled(tile=tile, round_p=_through(dtype)))


def _accumulated(dtype: torch.dtype) -> Callable[[Question], Iterable[Variant]]:
    """After each tile, relative to the running maximum: the accumulator is rounded."""

    def change(question: Question) -> Iterable[Variant]:
        for tile in TILES:
            yield (
                f"after tiles of {tile} keys",
                replace(question, softmax=(softmax := _Accumulated(tile, dtype)), accumulate=softmax.accumulate),
            )

    return change


def _in_fp8(question: Question) -> Question:
    k, v = (x.float().to(torch.float8_e4m3fn).float() for x in (question.pages.k_cache, question.pages.v_cache))
    return replace(question, pages=replace(question.pages, k_cache=k, v_cache=v))


class _Accumulated:
    """Softmax in tiles that keeps what a rounded accumulator needs: each tile's weights before later maxima."""

    def __init__(self, tile: int, dtype: torch.dtype) -> None:
        self.tile, self.dtype = tile, dtype
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._total = torch.empty(0)

    def __call__(
        self, scores: Tensor, seen: Tensor, sink: Tensor | None, count: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scores = scores.masked_fill(~seen, -torch.inf)
        maximum = scores.new_full(scores.shape[:2], -torch.inf)
        self._steps = []
        for first in range(0, scores.shape[-1], self.tile):
            s = scores[..., first : first + self.tile]
            raised = torch.maximum(maximum, s.amax(-1))
            base = raised.masked_fill(raised == -torch.inf, 0.0)
            self._steps.append((torch.exp(maximum - base), torch.exp(s - base[..., None])))
            maximum = raised
        weights, lse = Tiled(tile=self.tile)(scores, seen, sink, count)
        base = maximum.masked_fill(maximum == -torch.inf, 0.0)
        self._total = (lse - base).exp()
        return weights, lse

    def accumulate(self, weights: Tensor, v: Tensor) -> Tensor:
        out = weights.new_zeros(*weights.shape[:2], v.shape[-1])
        first = 0
        for shrink, p in self._steps:
            product = p @ v[:, first : first + p.shape[-1]]
            out = _through(self.dtype)(out * shrink[..., None] + product)
            first += p.shape[-1]
        return torch.where(self._total[..., None] > 0, out / self._total[..., None], 0.0)


def _rounding(name: str, says: str, change: Callable[[Question], Iterable[Variant]]) -> Counterfactual:
    return Counterfactual(name=name, says=says, change=change, rounds=True)


TABLE = (
    _rounding(
        "weights in fp8 e4m3",
        "softmax weights were rounded to float8 e4m3",
        _weights(_through(torch.float8_e4m3fn)),
    ),
    _rounding(
        "weights in fp8 e5m2",
        "softmax weights were rounded to float8 e5m2",
        _weights(_through(torch.float8_e5m2)),
    ),
    _rounding("weights truncated", "softmax weights were cut off to bf16", _weights(truncated)),
    *(
        _rounding(
            f"accumulated in {name}",
            f"the output were accumulated in {name}",
            _accumulated(dtype),
        )
        for name, dtype in HALF
    ),
    *(_rounding(f"scores in {name}", f"scores were rounded to {name}", _scores(dtype)) for name, dtype in HALF),
    _rounding(
        "denominator in bf16",
        "sums of the denominator were rounded to bf16",
        _sums(_through(torch.bfloat16)),
    ),
    _rounding("q rounded", "scaled queries were rounded to their dtype, undeclared", _rounded_q),
    Counterfactual(
        name="values in fp8",
        says="K and V were rounded to float8 e4m3, unscaled",
        applies=lambda question: not question.case.cache_dtype,
        change=once(_in_fp8),
    ),
)
