"""The judge: correct kernels pass, every planted defect is failed, and a verdict says what is wrong and where."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from conformance.case import LAYOUTS, REGIMES, Case
from conformance.execute import exact
from conformance.failure import text, where
from conformance.inputs import Inputs, make
from conformance.judge import ROW_NOISE_LIMIT, Verdict, case_noise_limit, error_bound, judge, locate, noise_variance
from conformance.manifest import cases
from conformance.rounding import DTYPES, RoundingProfile
from conformance.status import Status
from reference import Attention
from tests.harness.defects import DEFECTS
from tests.harness.flash import Flash

SMOKE = cases("smoke")


@cache
def problem(case: Case) -> tuple[Inputs, Attention]:
    inputs = make(case)
    return inputs, exact(case, inputs)


def ids(case: Case) -> str:
    return case.id


# -- correct kernels ---------------------------------------------------------------------------------------------------

CORRECT = {
    "rounding P": Flash(),
    "rounding P and q": Flash(rounds_q=True),
    "in tiles of 16, split in 3": Flash(tile=16, splits=3),
    "split in 5, rounding P and q": Flash(splits=5, rounds_q=True),
}

LENGTHS = (((1,), (1,)), ((1, 1, 1), (700, 1, 33)), ((16, 16), (250, 9)), ((3, 0, 17), (64, 5, 90)), ((2, 2), (0, 40)))

GRID = [
    Case(
        causal=causal,
        dtype=dtype,
        query_lens=query_lens,
        seq_lens=seq_lens,
        q_heads=kv_heads * (1, 4, 5)[at % 3],
        kv_heads=kv_heads,
        head_dim=(64, 128, 80, 16, 256)[at % 5],
        page_size=(16, 1, 64, 48)[at % 4],
        layout=LAYOUTS[at % 3],
        regime=REGIMES[at % 5],
        window=((-1, -1), (20, -1), (-1, 3), (31, 2))[at % 4],
        softcap=(0.0, 0.0, 30.0)[at % 3] if causal else 0.0,
        alibi=causal and at % 7 == 3,
        sinks=causal and at % 5 == 2,
    )
    for at, (causal, dtype, (query_lens, seq_lens), kv_heads) in enumerate(
        (causal, dtype, lens, kv_heads)
        for causal in (False, True)
        for dtype in DTYPES
        for lens in LENGTHS
        for kv_heads in (1, 2)
    )
]
"""Lengths x heads x dtypes, with every page size, layout, regime, window and feature spread over them."""


def served(kernel: Flash, case: Case) -> bool:
    """A kernel that rounds q before the scores cannot cap or bias them in the same units; AITER's refuses too."""
    return not (kernel.rounds_q and (case.softcap or case.alibi))


@pytest.mark.parametrize("case", SMOKE + GRID, ids=ids)
def test_a_correct_kernel_passes(case: Case) -> None:
    inputs, want = problem(case)
    for name, kernel in CORRECT.items():
        if served(kernel, case):
            verdict = judge(case, want, *kernel(case, inputs), kernel.profile(case))
            assert verdict.status is Status.PASS, f"{name}: {verdict}"
            figures = verdict.figures
            assert figures is not None
            assert figures.lse is not None
            assert figures.bound < 1
            assert figures.noise < case_noise_limit(case.tokens * case.q_heads)
            assert figures.row_noise < ROW_NOISE_LIMIT
            assert figures.lse < 1


@pytest.mark.parametrize("times", [0.01, 3.0, 10.0, 30.0], ids="q x{}".format)
@pytest.mark.parametrize("kernel", CORRECT.values(), ids=CORRECT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_correct_kernel_passes_at_any_size_of_logits(dtype: str, kernel: Flash, times: float) -> None:
    case = Case.parse(f"decode-noncausal-{dtype}-b3-q5-h4:2-d64-p16-kv300+17+5-packed-random")
    inputs = make(case)
    inputs = replace(inputs, q=(inputs.q * times).to(inputs.q.dtype))
    verdict = judge(case, exact(case, inputs), *kernel(case, inputs), kernel.profile(case))
    assert verdict.status is Status.PASS, verdict


def test_an_exact_answer_passes_with_nothing_to_explain() -> None:
    """One key: the output is its value, the error 0, and 0 over any bound is 0."""
    case = Case.parse("decode-causal-bf16-b2-q1-h2:2-d16-p4-kv1-contiguous-random")
    inputs, want = problem(case)
    pages = inputs.block_table[:, 0].long()
    verdict = judge(case, want, inputs.v_cache[pages, 0], want.lse.float())
    assert verdict.status is Status.PASS
    assert verdict.figures is not None
    assert (verdict.figures.bound, verdict.figures.noise, verdict.figures.row_noise) == (0, 0, 0)


# -- planted defects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(name, mode, id=f"{name}, {mode}") for name, defect in DEFECTS.items() for mode in defect.modes],
)
def test_the_smoke_tier_fails_every_defect_in_every_mode(name: str, mode: str) -> None:
    """Causal and non-causal cases go to different kernels: each kernel's cases must find the defect on their own."""
    defect = DEFECTS[name]
    for case in SMOKE:
        if case.causal == (mode == "causal"):
            inputs, want = problem(case)
            out, lse, profile = defect.answer(case, inputs)
            if not (verdict := judge(case, want, out, lse, profile)).status.conformant:
                assert verdict.status is defect.status
                return
    pytest.fail(f"no {mode} case of the smoke tier fails a kernel with this defect: {name}")


# -- the order of the checks -------------------------------------------------------------------------------------------

PLAIN = Case.parse("decode-noncausal-bf16-b3-q4-h4:2-d16-p4-kv21+5+9-packed-random")
BLIND = Case.parse("decode-causal-bf16-b2-q8-h2:1-d16-p4-kv3+20-packed-random")
"""The first five queries of its first sequence see no key."""


def right(case: Case) -> tuple[Tensor, Tensor]:
    """The exact answer, stored."""
    want = problem(case)[1]
    return want.out.to(torch.bfloat16), want.lse.float()


def judged(case: Case, out: Tensor, lse: Tensor | None = None) -> Verdict:
    return judge(case, problem(case)[1], out, lse)


def spoiled(x: Tensor, at: tuple[int, ...], value: float) -> Tensor:
    x = x.clone()
    x[at] = value
    return x


def test_the_stored_exact_answer_passes() -> None:
    for case in (PLAIN, BLIND):
        assert judged(case, *right(case)).status is Status.PASS
        assert judged(case, right(case)[0]).status is Status.PASS


MALFORMED: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]], str]] = {
    "shape": (lambda out, lse: (out[None], None), "output has shape [1, 12, 4, 16], not [12, 4, 16]"),
    "padded rows": (lambda out, lse: (out.repeat(2, 1, 1), None), "output has shape [24, 4, 16], not [12, 4, 16]"),
    "flat heads": (lambda out, lse: (out.flatten(1), None), "output has shape [12, 64], not [12, 4, 16]"),
    "dtype": (lambda out, lse: (out.float(), None), "output is float32, not bf16"),
    "other half": (lambda out, lse: (out.half(), None), "output is float16, not bf16"),
    "lse by head": (lambda out, lse: (out, lse.T), "lse has shape [4, 12], not [12, 4]"),
    "lse dtype": (lambda out, lse: (out, lse.double()), "lse is float64, not float32"),
    "shape before dtype": (lambda out, lse: (out[1:].float(), lse), "output has shape [11, 4, 16], not [12, 4, 16]"),
    "dtype before NaN": (lambda out, lse: (out.float() * math.nan, None), "output is float32, not bf16"),
    "lse before NaN": (lambda out, lse: (out * math.nan, lse[0]), "lse has shape [4], not [12, 4]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_comes_first(name: str) -> None:
    spoil, reason = MALFORMED[name]
    verdict = judged(PLAIN, *spoil(*right(PLAIN)))
    assert (verdict.status, verdict.reason) == (Status.MALFORMED, reason)
    assert verdict.figures is None


def test_what_is_not_finite_comes_before_what_is_wrong() -> None:
    out, lse = right(PLAIN)
    verdict = judged(PLAIN, spoiled(out * 2, (5, 3, 7), math.nan), lse * 2)
    assert verdict.status is Status.NONFINITE
    assert verdict.worst is not None
    assert (verdict.worst.sequence, verdict.worst.query, verdict.worst.head, verdict.worst.dim) == (1, 1, 3, 7)
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[5, 3]]


def test_infinity_is_told_from_nan() -> None:
    out, _ = right(PLAIN)
    out = spoiled(spoiled(out, (0, 0, 0), math.inf), (0, 0, 1), -math.inf)
    assert judged(PLAIN, out).reason == "2 elements (0.3%) are not finite, 0 of them NaN"
    out[7] = math.nan
    assert judged(PLAIN, out).reason == "66 elements (8.6%) are not finite, 64 of them NaN"


def test_one_wrong_element_is_a_mismatch() -> None:
    out, lse = right(PLAIN)
    verdict = judged(PLAIN, spoiled(out, (11, 0, 15), 9.0), lse)
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "an element exceeds its error bound")
    assert verdict.worst is not None
    assert (verdict.worst.sequence, verdict.worst.query, verdict.worst.head, verdict.worst.dim) == (2, 3, 0, 15)
    assert verdict.worst.got == 9.0
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[11, 0]]


def test_one_element_over_its_bound_is_a_mismatch_in_the_quietest_row() -> None:
    """Among 256 elements one hardly changes the energy of a row."""
    case = Case.parse("decode-noncausal-bf16-b1-q1-h2:2-d256-p16-kv9-contiguous-random")
    want = problem(case)[1]
    out = want.out.to(torch.bfloat16)
    out[0, 1, 77] += 1.5 * error_bound(want, RoundingProfile.flash(case.dtype), case)[0, 1, 77]
    verdict = judged(case, out)
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "an element exceeds its error bound")
    assert verdict.figures is not None
    assert verdict.figures.row_noise < 1
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[0, 1]]


LONG = Case.parse("decode-noncausal-fp16-b1-q2-h8:1-d64-p64-kv4096-contiguous-random")


def noisy(times: Tensor | float) -> Tensor:
    """LONG's output, off by `times` what rounding makes, in a direction that changes from element to element."""
    want = problem(LONG)[1]
    sign = (-1.0) ** torch.arange(want.out.numel()).view(want.out.shape)
    scatter = noise_variance(want, RoundingProfile.flash(LONG.dtype), LONG).sqrt()
    return (want.out + sign * times * scatter).half()


def test_a_row_with_more_error_than_rounding_makes() -> None:
    """Every element is within its bound, which at long contexts is far too generous."""
    times = torch.ones(2, 8, 1, dtype=torch.float64)
    times[1, 5] = 1.2 * ROW_NOISE_LIMIT
    verdict = judged(LONG, noisy(times))
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "a row has more error than rounding makes")
    assert verdict.figures is not None
    assert verdict.figures.bound < 1
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[1, 5]]
    assert verdict.worst is not None
    assert (verdict.worst.query, verdict.worst.head) == (1, 5)


def test_a_case_with_more_error_than_rounding_makes() -> None:
    """No row stands out; together they do."""
    verdict = judged(LONG, noisy(3.0))
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "the case has more error than rounding makes")
    assert verdict.figures is not None
    assert verdict.figures.bound < 1
    assert verdict.figures.row_noise < ROW_NOISE_LIMIT
    assert judged(LONG, noisy(0.5)).status is Status.PASS


# -- lse ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 0.0, 1e30], ids=str)
def test_only_the_lse_is_wrong(wrong: float) -> None:
    out, lse = right(PLAIN)
    verdict = judged(PLAIN, out, spoiled(lse, (6, 2), wrong))
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "an lse exceeds its error bound")
    assert verdict.worst is not None
    assert (verdict.worst.sequence, verdict.worst.query, verdict.worst.head, verdict.worst.dim) == (1, 2, 2, None)
    assert verdict.figures is not None
    assert verdict.figures.lse is not None
    assert verdict.figures.lse > 1
    assert verdict.figures.bound < 1


def test_a_row_that_sees_nothing_has_lse_minus_infinity_and_output_0() -> None:
    out, lse = right(BLIND)
    assert torch.equal(lse[:5], torch.full((5, 2), -math.inf))
    assert not out[:5].any()
    for wrong in (0.0, -1e30, math.inf, math.nan):
        assert judged(BLIND, out, spoiled(lse, (4, 1), wrong)).reason == "an lse exceeds its error bound"
    assert judged(BLIND, out, spoiled(lse, (5, 1), -math.inf)).reason == "an lse exceeds its error bound"
    assert judged(BLIND, spoiled(out, (4, 1, 3), 1e-3), lse).reason == "an element exceeds its error bound"


def test_without_the_oracle_sums_there_is_no_verdict() -> None:
    inputs, _ = problem(PLAIN)
    with pytest.raises(ValueError, match="the oracle's rounding sums are needed to judge"):
        judge(PLAIN, exact(PLAIN, inputs, sums=False), right(PLAIN)[0])


def test_a_looser_declaration_allows_more() -> None:
    inputs, want = problem(SMOKE[0])
    kernel = Flash(rounds_q=True)
    answer = kernel(SMOKE[0], inputs)
    strict = judge(SMOKE[0], want, *answer, RoundingProfile.flash(SMOKE[0].dtype))
    declared = judge(SMOKE[0], want, *answer, kernel.profile(SMOKE[0]))
    assert (strict.status, declared.status) == (Status.MISMATCH, Status.PASS)


def test_every_status_but_two_fails_a_run() -> None:
    assert {status for status in Status if status.conformant} == {Status.PASS, Status.UNSUPPORTED}


# -- what a person reads -----------------------------------------------------------------------------------------------


def test_locate_skips_sequences_without_queries() -> None:
    case = Case.parse("decode-causal-bf16-b4-q2+0+3+0-h1:1-d16-p4-kv9-packed-random")
    assert [locate(case, token) for token in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]


def marked(case: Case, tokens: list[int], heads: list[int]) -> Tensor:
    wrong = torch.zeros(case.tokens, case.q_heads, dtype=torch.bool)
    wrong[torch.tensor(tokens)[:, None], torch.tensor(heads)] = True
    return wrong


WIDE = Case.parse("decode-noncausal-bf16-b3-q4-h32:8-d16-p4-kv21+5+9-packed-random")


ODD = [1, 3, 5, 7, 9, 11, 14]


@pytest.mark.parametrize(
    ("tokens", "heads", "phrase"),
    [
        (list(range(12)), list(range(32)), "every sequence; every query; every head; 100.0% of all rows"),
        ([4, 5, 6, 7], [3], "sequence 1 of 3; every query; head 3 of 32; 1.0% of all rows"),
        ([3, 11], list(range(32)), "sequences 0, 2 of 3; query 3 of 4; every head; 16.7% of all rows"),
        ([0, 1, 4, 5, 8, 9], [8, 9, 10, 11], "every sequence; queries 0-1 of 4; heads 8-11 of 32; 6.2% of all rows"),
        ([0], ODD, "sequence 0 of 3; query 0 of 4; heads 1, 3, 5, 7, 9, 11, ... of 32; 1.8% of all rows"),
    ],
)  # fmt: skip
def test_where_says_which_rows(tokens: list[int], heads: list[int], phrase: str) -> None:
    assert where(WIDE, marked(WIDE, tokens, heads)) == phrase


def test_a_failure_reads_like_this() -> None:
    """Golden: what a reviewer sees is part of what the suite promises."""
    out, _ = right(PLAIN)
    out[4:8, 2] = out[4:8, 1]  # a head that answers for its neighbour, in one sequence
    verdict = replace(judged(PLAIN, out), path="kvcache")
    shown = text(PLAIN, verdict, "aiter 0.1.15", "interpreter:gfx942", "python -m conformance run --case X")
    assert shown == GOLDEN_FAILURE


GOLDEN_FAILURE = """\
MISMATCH  aiter 0.1.15 (kvcache, interpreter:gfx942)   decode-noncausal-bf16-b3-q4-h4:2-d16-p4-kv21+5+9-packed-random
  what    an element exceeds its error bound
  worst   out[seq 1, query 0, head 2, dim 12] = 1.008, want -0.1919   |err| 1.2e+00 = 573 x bound; \
noise ratio 244, worst row 1.11e+03
  where   sequence 1 of 3; every query; head 2 of 4; 8.3% of all rows
  repro   python -m conformance run --case X"""


def test_a_failure_without_figures_is_shorter() -> None:
    shown = text(PLAIN, Verdict(Status.ERROR, "ValueError: no"), "torch", "cpu", "again")
    assert shown == f"ERROR  torch (cpu)   {PLAIN.id}\n  what    ValueError: no\n  repro   again"


def test_a_wrong_lse_is_shown_as_an_lse() -> None:
    out, lse = right(PLAIN)
    shown = text(PLAIN, judged(PLAIN, out, spoiled(lse, (6, 2), 0.0)), "torch", "cpu", "again")
    assert "  worst   lse[seq 1, query 2, head 2] = 0, want 1.396   |err| 1.4e+00" in shown
