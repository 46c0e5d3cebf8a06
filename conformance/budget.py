"""What error is allowed, and nowhere else: what rounding explains, by what a kernel declares that it rounds.

* `error_bound`: the worst case of each element;
* `noise_variance`: its mean square. The bound grows with `sum p |v|`, real noise only with `sqrt(sum p^2 v^2)`, so at
  long contexts the bound alone would let a whole lost key pass.
"""

from dataclasses import dataclass

from torch import Tensor

from conformance.case import Case
from conformance.rounding import UNDERFLOW, UNIT_ROUNDOFF, RoundingProfile
from reference import Attention, RoundingSums

U32 = UNIT_ROUNDOFF["fp32"]

MEAN_SQUARE_ROUNDING = 0.18
"""Mean square of the relative error of rounding to nearest, in units of u^2, over mantissas as they occur."""

COHERENT_SUM = 2.0
"""Energy of the partial sums of equal terms added in halves, over that of their sum: 1 + 1/2 + 1/4 + ..."""

LIKELY_SCORE = 9.0
"""Square of a score that has weight, over B_k: of three standard deviations, as the largest of some hundred has."""


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
