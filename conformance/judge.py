"""From an output to a verdict. What error is allowed is `conformance.budget`'s to say, and no constant's here.

No element may exceed its bound, and the error energy of a row, and of the case, may not exceed what rounding explains.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conformance.budget import Allowance, allowance
from conformance.case import Case
from conformance.rounding import RoundingProfile
from conformance.status import Status
from conformance.targets.built_kernel import BuiltKernel
from reference import Attention

CASE_NOISE_LIMIT = 1.25
"""Root mean square error of a case over that of its rounding; correct kernels stay below 1."""

ROW_NOISE_LIMIT = 6.0
"""The same for one (query, head) row, whose D errors share a few dominant weights and so scatter far more."""


@dataclass(frozen=True)
class Worst:
    """The element, or the row, that is furthest off."""

    sequence: int
    query: int
    head: int
    dim: int | None
    got: float
    want: float
    ratio: float


@dataclass(frozen=True)
class Figures:
    """How close an output came to what is allowed; recorded for passes too, so that drift shows before it fails."""

    bound: float  # max |error| / E
    noise: float  # of the case
    row_noise: float  # of the worst row
    lse: float | None = None  # max |lse error| / its bound


@dataclass(frozen=True)
class Verdict:
    """A status, and what led to it."""

    status: Status
    reason: str = ""
    figures: Figures | None = None
    worst: Worst | None = None
    wrong: Tensor | None = None  # bool [T, Hq]: rows that break a rule
    evidence: str = ""  # which key was read instead of which, where the output says so
    looks: str = ""  # which mistake would give the same output, where one was looked for
    noise_limit: float = CASE_NOISE_LIMIT  # or, where the noise was above that, the limit for so few rows
    path: str = ""
    seconds: float | None = None
    kernels: tuple[BuiltKernel, ...] = ()  # what was built instead of run


def judge(
    case: Case, want: Attention, out: Tensor, lse: Tensor | None = None, profile: RoundingProfile | None = None
) -> Verdict:
    """Judge `out` [T, Hq, D] and, where given, `lse` [T, Hq] (natural logarithm) against the oracle's `want`.

    Checks in order: shape, dtype, finite (an element never written is NaN, as buffers are handed out), bound, noise,
    lse. The first that fails names the status. Without a profile, that of a flash-attention kernel is assumed.
    """
    if reason := malformed(case, out, lse):
        return Verdict(Status.MALFORMED, reason)
    got = out.double()
    if not bool(got.isfinite().all()):
        return _nonfinite(case, got, want.out)
    return _within(case, allowance(case, want, profile), (got, lse), (want.out, want.lse))


def differ(
    case: Case,
    first: tuple[Tensor, Tensor | None],
    second: tuple[Tensor, Tensor | None],
    allowed: Allowance | None = None,
) -> Verdict:
    """Judge two well-formed answers (out [T, Hq, D], lse [T, Hq] or None) to calls that must be answered alike.

    They may differ by what is allowed, that of the one plus that of the other; without it, in no bit. Checks in order:
    both finite, then as `judge` has them. An lse is compared where both give one.
    """
    for which, out, other in (("first", first[0], second[0]), ("second", second[0], first[0])):
        if not bool(out.isfinite().all()):
            verdict = _nonfinite(case, out.double(), other.double())
            return replace(verdict, reason=f"in the {which} answer, {verdict.reason}")
    lses = None if first[1] is None or second[1] is None else (first[1], second[1])
    if allowed is not None:
        want = (first[0].double(), lses[0].double() if lses else None)
        return _within(case, allowed, (second[0].double(), lses[1] if lses else None), want)
    for name, pair in (("out", (first[0], second[0])), ("lse", lses)):
        if pair is not None and bool((differs := _other_bits(*pair)).any()):
            return _unequal(case, name, differs, *pair)
    return Verdict(Status.PASS)


def _within(
    case: Case, allowed: Allowance, answer: tuple[Tensor, Tensor | None], want: tuple[Tensor, Tensor | None]
) -> Verdict:
    """Judge a finite `out` and an lse against those wanted: bound, noise, lse."""
    (got, lse), (want_out, want_lse) = answer, want
    error = (got - want_out).abs()
    over = _ratio(error, allowed.bound)
    row_energy = _energy(error, allowed.variance)
    row_noise = row_energy.sqrt()
    figures = Figures(float(over.max()), float(row_energy.mean().sqrt()), float(row_noise.max()))
    wrong = (over > 1).any(-1) | (row_noise > ROW_NOISE_LIMIT)
    worst = _worst_element(case, torch.where(wrong[..., None], over, 0.0) if wrong.any() else over, got, want_out)
    if wrong.any():
        rule = "an element exceeds its error bound" if figures.bound > 1 else "a row has more error than rounding makes"
        return Verdict(Status.MISMATCH, rule, figures, worst, wrong)
    limit = CASE_NOISE_LIMIT
    if figures.noise > limit:
        limit = case_noise_limit(independent_rows(want_out))
    if figures.noise > limit:
        reason = "the case has more error than rounding makes"
        return Verdict(Status.MISMATCH, reason, figures, worst, noise_limit=limit)
    if lse is not None and want_lse is not None:
        ratio, worst_lse = _judge_lse(case, lse.double(), want_lse, allowed.lse)
        figures = replace(figures, lse=ratio)
        if ratio > 1:
            return Verdict(Status.MISMATCH, "an lse exceeds its error bound", figures, worst_lse)
    return Verdict(Status.PASS, "", figures, worst, noise_limit=limit)


def elements_out(out: Tensor, want: Attention, allowed: Allowance) -> Tensor:
    """Bool [T, Hq, D]: elements that are not finite, that exceed their bound, or whose row has too much noise."""
    error = (out.double() - want.out).abs()
    row_noise = _energy(error, allowed.variance).sqrt()
    return ~(_ratio(error, allowed.bound) <= 1) | (row_noise > ROW_NOISE_LIMIT)[..., None]


def independent_rows(want: Tensor) -> int:
    """Rows of `want` [T, Hq, D] that differ: equal ones are rounded alike, so that they are one sample of an error."""
    return len(want.float().flatten(0, 1).unique(dim=0))


def case_noise_limit(rows: int) -> float:
    """CASE_NOISE_LIMIT for many independent rows; for few, one of them may be at its own limit."""
    return math.sqrt(CASE_NOISE_LIMIT**2 + ROW_NOISE_LIMIT**2 / rows)


def malformed(case: Case, out: Tensor, lse: Tensor | None) -> str:
    """What is wrong with the shape or dtype of an answer, or nothing."""
    shape = (case.tokens, case.q_heads, case.head_dim)
    if tuple(out.shape) != shape:
        return f"output has shape {list(out.shape)}, not {list(shape)}"
    if (dtype := str(out.dtype).removeprefix("torch.")) != {"bf16": "bfloat16", "fp16": "float16"}[case.dtype]:
        return f"output is {dtype}, not {case.dtype}"
    if lse is not None and tuple(lse.shape) != shape[:2]:
        return f"lse has shape {list(lse.shape)}, not {list(shape[:2])}"
    if lse is not None and lse.dtype != torch.float32:
        return f"lse is {str(lse.dtype).removeprefix('torch.')}, not float32"
    return ""


def _nonfinite(case: Case, got: Tensor, want: Tensor) -> Verdict:
    bad = ~got.isfinite()
    nan, share = int(got.isnan().sum()), float(bad.double().mean())
    reason = f"{int(bad.sum())} elements ({share:.1%}) are not finite, {nan} of them NaN"
    worst = _worst_element(case, bad.double(), got, want)
    return Verdict(Status.NONFINITE, reason, worst=worst, wrong=bad.any(-1))


def _other_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors are not equal in every bit; a NaN equals nothing."""
    a, b = a.contiguous(), b.contiguous()
    bits = torch.int16 if a.itemsize == 2 else torch.int32
    return (a.view(bits) != b.view(bits)) | a.isnan() | b.isnan()


def _unequal(case: Case, name: str, differs: Tensor, first: Tensor, second: Tensor) -> Verdict:
    """Two answers that `differs` tells apart, `out` [T, Hq, D] or `lse` [T, Hq]; the worst is where they do so most."""
    want, got = first.double(), second.double()
    error = torch.where(got == want, 0.0, (got - want).abs()).nan_to_num(nan=math.inf)
    token, head, *dim = (int(x) for x in torch.unravel_index((error + differs).argmax(), error.shape))
    at = (token, head, *dim)
    worst = Worst(*locate(case, token), head, dim[0] if dim else None, float(got[at]), float(want[at]), math.nan)
    count, share = int(differs.sum()), float(differs.double().mean())
    reason = f"{count} elements of {name} ({share:.1%}) have other bits, by up to {float(error.max()):.2g}"
    return Verdict(Status.MISMATCH, reason, worst=worst, wrong=differs.any(-1) if dim else differs)


def _ratio(error: Tensor, bound: Tensor) -> Tensor:
    """The error over its bound, where 0 / 0 is 0: an exact result is never over."""
    return torch.where(error == 0, 0.0, error / bound)


def _energy(error: Tensor, variance: Tensor) -> Tensor:
    """Mean over D of error^2 / variance, [T, Hq]."""
    return torch.where(error == 0, 0.0, error.square() / variance).mean(-1)


def _worst_element(case: Case, score: Tensor, got: Tensor, want: Tensor) -> Worst:
    token, head, dim = (int(x) for x in torch.unravel_index(score.argmax(), score.shape))
    sequence, query = locate(case, token)
    at = (token, head, dim)
    return Worst(sequence, query, head, dim, float(got[at]), float(want[at]), float(score[at]))


def _judge_lse(case: Case, lse: Tensor, want: Tensor, bound: Tensor) -> tuple[float, Worst]:
    """Largest ratio of lse error to its bound; -inf must be met exactly."""
    error = torch.where(lse == want, 0.0, (lse - want).abs())
    over = _ratio(error, bound).nan_to_num(nan=math.inf)
    token, head = (int(x) for x in torch.unravel_index(over.argmax(), over.shape))
    sequence, query = locate(case, token)
    got, expected, ratio = (float(x[token, head]) for x in (lse, want, over))
    return ratio, Worst(sequence, query, head, None, got, expected, ratio)


def locate(case: Case, token: int) -> tuple[int, int]:
    """Sequence, and query within it, of a packed query row."""
    starts = case.query_starts
    sequence = max(b for b in range(case.batch) if starts[b] <= token)
    return sequence, token - starts[sequence]
