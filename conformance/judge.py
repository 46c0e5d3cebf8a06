"""From an output to a verdict: the only place that knows what error is allowed.

Two rules, both derived from the rounding that a kernel declares (`RoundingProfile`), neither tuned to a kernel:

* no element may exceed its worst-case bound `E` (`error_bound`);
* the error energy of a row, and of the case, may not exceed what rounding explains (`noise_variance`): the bound grows
  with `sum p |v|`, real noise only with `sqrt(sum p^2 v^2)`, so at long contexts the bound alone would let a whole lost
  key pass.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conformance.case import Case
from conformance.rounding import UNDERFLOW, UNIT_ROUNDOFF, RoundingProfile
from conformance.status import Status
from conformance.targets.built_kernel import BuiltKernel
from reference import Attention, RoundingSums

U32 = UNIT_ROUNDOFF["fp32"]

MEAN_SQUARE_ROUNDING = 0.18
"""Mean square of the relative error of rounding to nearest, in units of u^2, over mantissas as they occur."""

CASE_NOISE_LIMIT = 1.25
"""Root mean square error of a case over that of its rounding; correct kernels stay below 1."""

COHERENT_SUM = 2.0
"""Energy of the partial sums of equal terms added in halves, over that of their sum: 1 + 1/2 + 1/4 + ..."""

LIKELY_SCORE = 9.0
"""Square of a score that has weight, over B_k: of three standard deviations, as the largest of some hundred has."""

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
    allowed: "Allowance | None" = None,
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


@dataclass(frozen=True)
class Allowance:
    """Error that declared rounding explains: `bound` and `variance` [T, Hq, D], and the bound of an `lse` [T, Hq]."""

    bound: Tensor
    variance: Tensor
    lse: Tensor

    def __add__(self, other: "Allowance") -> "Allowance":
        """Of a difference: bounds add up, and so do variances of errors that know nothing of each other."""
        return Allowance(self.bound + other.bound, self.variance + other.variance, self.lse + other.lse)

    def __getitem__(self, rows: Tensor) -> "Allowance":
        """That of some packed query rows."""
        return Allowance(self.bound[rows], self.variance[rows], self.lse[rows])


def allowance(case: Case, want: Attention, profile: RoundingProfile | None) -> Allowance:
    """What a kernel of that profile, or of a flash-attention kernel's where it declares none, may err by."""
    profile = profile or RoundingProfile.flash(case.dtype)
    return Allowance(
        error_bound(want, profile, case), noise_variance(want, profile, case), lse_bound(want, profile, case)
    )


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
        limit = case_noise_limit(_independent_rows(want_out))
    if figures.noise > limit:
        reason = "the case has more error than rounding makes"
        return Verdict(Status.MISMATCH, reason, figures, worst, noise_limit=limit)
    if lse is not None and want_lse is not None:
        ratio, worst_lse = _judge_lse(case, lse.double(), want_lse, allowed.lse)
        figures = replace(figures, lse=ratio)
        if ratio > 1:
            return Verdict(Status.MISMATCH, "an lse exceeds its error bound", figures, worst_lse)
    return Verdict(Status.PASS, "", figures, worst, noise_limit=limit)


def _independent_rows(want: Tensor) -> int:
    """Rows of `want` [T, Hq, D] that differ: equal ones are rounded alike, so that they are one sample of an error."""
    return len(want.float().flatten(0, 1).unique(dim=0))


def case_noise_limit(rows: int) -> float:
    """CASE_NOISE_LIMIT for many independent rows; for few, one of them may be at its own limit."""
    return math.sqrt(CASE_NOISE_LIMIT**2 + ROW_NOISE_LIMIT**2 / rows)


def error_bound(want: Attention, profile: RoundingProfile, case: Case) -> Tensor:
    """Worst-case error of each output element under the declared rounding, [T, Hq, D] (NUMERICS section 3).

    E = u_out |o| + u_p S1 + (u_q + (D + 8) u_32) (sum p A |v| + |o| sum p A) + 2^-20 S1 + underflow, S1 = sum p |v|;
    where the keys are attended in parts, u_parts sum |w_i o_i| + u_merged sum |r_j| on top, and what their lse err by.
    """
    sums, o = _sums(want), want.out.abs()
    u_out, u_p = UNIT_ROUNDOFF[profile.out], UNIT_ROUNDOFF[profile.p]
    scores = sums.weighted_score_v + o * sums.weighted_score[..., None]
    bound = u_out * o + u_p * sums.weighted_v + _score_roundoff(profile, case) * scores + 2.0**-20 * sums.weighted_v
    bound += _additions(case.page_size) * _roundoff(profile.weight_sum) * o + _roundoff(profile.split) * sums.weighted_v
    # Near the smallest normal number a relative bound says nothing: weights, and the output, err absolutely there.
    bound += UNDERFLOW[profile.p] * sums.visible_v + UNDERFLOW[profile.out]
    if (parts := want.parts) is not None:
        bound += _roundoff(profile.parts) * parts.weighted + _roundoff(profile.merged) * parts.running
        bound += (2.0**-20 + 8 * U32 * _size(want.lse))[..., None] * parts.weighted
    return bound + _absolute_score_error(want, case)[..., None] * (sums.weighted_v + o)


def noise_variance(want: Attention, profile: RoundingProfile, case: Case) -> Tensor:
    """Mean square error of each output element that rounding to nearest explains, [T, Hq, D] (NUMERICS section 4).

    0.18 u_out^2 o^2 + 0.18 u_p^2 sum p^2 v^2 + 0.18 u_q^2 sum p^2 B (v - o)^2 + (2^-22 S1)^2 + underflow.
    """
    sums = _sums(want)
    u_out, u_p = UNIT_ROUNDOFF[profile.out], UNIT_ROUNDOFF[profile.p]
    variance = MEAN_SQUARE_ROUNDING * (u_out**2 * want.out.square() + u_p**2 * sums.squared_v)
    variance += MEAN_SQUARE_ROUNDING * _score_noise(profile, case) * sums.squared_score_deviation
    if profile.weight_sum:  # of positive terms, as those of a score with all its products alike
        variance += MEAN_SQUARE_ROUNDING * COHERENT_SUM * _roundoff(profile.weight_sum) ** 2 * want.out.square()
    if profile.split:  # into an unknown number: their sums of p v are alike, or of either sign like the terms
        squares = want.out.square() + sums.squared_v
        variance += MEAN_SQUARE_ROUNDING * _roundoff(profile.split) ** 2 * squares
    # float32 work: accumulation, and scores whose error, relative to A, is about u_32 sqrt(D) rather than (D + 8) u_32
    variance += (2.0**-22 * sums.weighted_v).square()
    variance += case.head_dim * U32**2 * sums.squared_score_deviation
    variance += (_absolute_score_error(want, case)[..., None] * sums.weighted_v).square()
    # An error uniform within +-h has mean square h^2 / 3.
    variance += UNDERFLOW[profile.p] ** 2 / 3 * sums.visible_v_squared
    if (parts := want.parts) is not None:
        stored = _roundoff(profile.parts) ** 2 * parts.squared + _roundoff(profile.merged) ** 2 * parts.running_squared
        variance += MEAN_SQUARE_ROUNDING * stored
        variance += ((2.0**-22 + 2 * U32 * _size(want.lse))[..., None] * parts.weighted).square()
    return variance + UNDERFLOW[profile.out] ** 2


def lse_bound(want: Attention, profile: RoundingProfile, case: Case) -> Tensor:
    """Worst-case error of each lse, [T, Hq]: that of the scores, of a float32 sum and logarithm, and of storing it."""
    scores = _score_roundoff(profile, case) * _sums(want).weighted_score + _absolute_score_error(want, case)
    scores += _additions(case.page_size) * _roundoff(profile.weight_sum)
    steps = 1 if want.parts is None else 2  # and that of merging
    return scores + steps * (2.0**-20 + 4 * U32 * want.lse.abs())


def _sums(want: Attention) -> RoundingSums:
    if want.sums is None:
        raise ValueError("the oracle's rounding sums are needed to judge")
    return want.sums


def _score_roundoff(profile: RoundingProfile, case: Case) -> float:
    """Relative error of a score, in units of A_k: q and products rounded, and a sum of D terms, in float32 or less."""
    u = _roundoff(profile.scaled_q) + _roundoff(profile.products)
    return u + _additions(case.head_dim) * _roundoff(profile.score_sum) + (case.head_dim + 8) * U32


def _score_noise(profile: RoundingProfile, case: Case) -> float:
    """Mean square error of a score in units of MEAN_SQUARE_ROUNDING B_k, float32's aside: q, products, their sum.

    Where D terms are added in halves there are D / 2^l partial sums after l rounds. Those of terms of either sign have
    an energy of B a round; those of terms alike have, of all rounds, `COHERENT_SUM` times the square of the score.
    """
    partial_sums = _additions(case.head_dim) + COHERENT_SUM * LIKELY_SCORE
    roundings = (profile.scaled_q, 1.0), (profile.products, 1.0), (profile.score_sum, partial_sums)
    return sum(energy * _roundoff(dtype) ** 2 for dtype, energy in roundings)


def _additions(terms: int) -> int:
    """Through how many additions a term goes where so many are added in halves."""
    return max(0, terms - 1).bit_length()


def _roundoff(dtype: str | None) -> float:
    """Of what is rounded to `dtype`, or not at all."""
    return UNIT_ROUNDOFF[dtype] if dtype else 0.0


def _size(lse: Tensor) -> Tensor:
    """How large each lse is: their rounding in float32 scales with that. A row that sees nothing has none."""
    return lse.abs().nan_to_num(posinf=0.0)


def _absolute_score_error(want: Attention, case: Case) -> Tensor:
    """Error of a score that does not scale with A_k, [T or 1, 1]: a softcap's tanh, and a positive ALiBi bias.

    tanh goes through two exponentials and a division in float32, an absolute error in units of the cap. A bias b errs
    by at most 4 u_32 |b|: slope and log2(e) are rounded, and so are their product, that with the distance and the sum.
    To the left of a query a large |b| takes the weight away; to the right, up to the last query or the window's edge,
    it adds weight. Slopes are below 1.
    """
    cap = want.lse.new_full((1, 1), 8 * U32 * case.softcap)
    if case.causal or not case.alibi:
        return cap
    distance = want.lse.new_tensor([m - 1 - i for m in case.query_lens for i in range(m)])[:, None]
    right = case.window[1]
    return cap + 4 * U32 * (distance if right < 0 else distance.clamp(max=right))


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
