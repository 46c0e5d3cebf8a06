"""Correct kernels, in every rounding profile that a kernel may declare, are never failed."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.random_cases import draw
from conformance.case import LAYOUTS, PAGE_ORDERS, REGIMES, Case
from conformance.execute import exact
from conformance.inputs import make
from conformance.judge import ROW_NOISE_LIMIT, case_noise_limit, judge
from conformance.manifest import cases
from conformance.rounding import CACHE_DTYPES, DTYPES
from conformance.status import Status
from tests.harness.correct import CORRECT
from tests.harness.flash import Flash
from tests.harness.judged import problem
from tests.harness.unsteady import attend

SMOKE = cases("smoke")

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
        layout=LAYOUTS[at % 5],
        regime=REGIMES[at * 7 % 10],
        window=((-1, -1), (20, -1), (-1, 3), (31, 2))[at % 4],
        softcap=(0.0, 0.0, 30.0)[at % 3] if causal else 0.0,
        alibi=causal and at % 7 == 3,
        sinks=causal and at % 5 == 2,
        page_order=PAGE_ORDERS[:2][at % 2],
        cache_dtype=("", "", *CACHE_DTYPES)[at * 3 % 5],
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


DRAWN = [draw(seed=1, number=number) for number in range(60)]


@pytest.mark.parametrize("case", SMOKE + GRID + DRAWN, ids=lambda case: case.id)
def test_a_correct_kernel_passes(case: Case) -> None:
    inputs, want = problem(case)
    for name, kernel in CORRECT.items():
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


@pytest.mark.parametrize("lens", ["q128-h8:8-d1-p16-kv281", "q128-h8:8-d2-p16-kv254"])
def test_a_correct_kernel_passes_where_a_bias_is_positive_and_large(lens: str) -> None:
    """Without an error of the bias itself in its bound, it was failed: 1.6 and 1.2 times the bound."""
    case = Case.parse(f"decode-noncausal-fp16-b1-{lens}-alibi-contiguous-random")
    inputs, want = problem(case)
    kernel = CORRECT["P in float32, tiles of 128"]
    assert judge(case, want, *kernel(case, inputs), kernel.profile(case)).status is Status.PASS


def test_an_exact_answer_passes_with_nothing_to_explain() -> None:
    """One key: the output is its value, the error 0, and 0 over any bound is 0."""
    case = Case.parse("decode-causal-bf16-b2-q1-h2:2-d16-p4-kv1-contiguous-random")
    inputs, want = problem(case)
    pages = inputs.block_table[:, 0].long()
    verdict = judge(case, want, inputs.v_cache[pages, 0], want.lse.float())
    assert verdict.status is Status.PASS
    assert verdict.figures is not None
    assert (verdict.figures.bound, verdict.figures.noise, verdict.figures.row_noise) == (0, 0, 0)


def test_a_kernel_that_is_never_twice_the_same_passes_each_time() -> None:
    """Each call is right: `tests.harness.unsteady` is what repetition is for."""
    case = Case.parse("decode-causal-bf16-b2-q8-h4:2-d64-p16-kv300+120-packed-random")
    inputs, want = problem(case)
    answers = [attend(case, inputs) for _ in range(4)]
    assert all(judge(case, want, x.out, x.lse, x.profile).status is Status.PASS for x in answers)
    assert not any(torch.equal(x.out, y.out) for x, y in pairwise(answers))


def test_rows_that_are_one_sample_count_once() -> None:
    """With one dim, and the shift in it, all scores of a query are alike: 32 heads give one answer, rounded one way."""
    case = Case.parse("decode-noncausal-bf16-b3-q14-h32:1-d1-p1-kv480+504+57-w100:inf-pages.shared-interleaved-shifted")
    inputs, want = problem(case)
    kernel = CORRECT["P in float32, tiles of 128"]
    verdict = judge(case, want, *kernel(case, inputs), kernel.profile(case))
    assert verdict.status is Status.PASS, verdict
    assert verdict.figures is not None
    assert verdict.figures.noise > case_noise_limit(case.tokens * case.q_heads), "the case shows nothing"
