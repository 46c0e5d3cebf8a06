"""How test suites of attention kernels decide that an output is right: their comparison rules, restated, beside ours.

A rule is restated from its description, with the inputs that its own test draws. Shapes are this benchmark's own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.drawn_inputs import (
    LARGE,
    NEEDLE,
    NORMAL,
    NORMAL_E4M3,
    NORMAL_FP16,
    SHIFTED,
    SMALL_NORMAL,
    TINY,
    UNIFORM,
    Draw,
    Problem,
)
from conformance.judge import judge
from conformance.rounding import RoundingProfile
from conformance.status import Status


@dataclass(frozen=True)
class Answer:
    """A kernel's answer: `out` [T, Hq, D] in the case's dtype, `lse` if it gives one, and what it says it rounds."""

    problem: Problem
    out: Tensor
    lse: Tensor | None
    profile: RoundingProfile


Passes = Callable[[Answer], bool]


@dataclass(frozen=True)
class Rule:
    """A comparison rule with the inputs of its test; `passes` says whether that test would pass."""

    name: str
    draw: Draw
    passes: Passes

    @property
    def source(self) -> str:
        """Project, file, tolerance."""
        return " ".join((self.passes.__doc__ or "").split())


RULES: list[Rule] = []

OURS = "ours"


def rule(name: str, *draws: Draw) -> Callable[[Passes], Passes]:
    """Enter a rule into RULES, once for each way in which its inputs are drawn."""

    def enter(passes: Passes) -> Passes:
        RULES.extend(Rule(name, draw, passes) for draw in draws)
        return passes

    return enter


def beyond(out: Tensor, want: Tensor, atol: float, rtol: float) -> Tensor:
    """Bool: not within `atol + rtol |want|`. NaN is beyond."""
    return ~torch.isclose(out.float(), want.float(), atol=atol, rtol=rtol)


def greater(out: Tensor, want: Tensor, atol: float, rtol: float) -> Tensor:
    """The same, written as a comparison that NaN never meets."""
    return (out.float() - want.float()).abs() > atol + rtol * want.float().abs()


# -- AITER -------------------------------------------------------------------------------------------------------------


@rule("AITER unified", NORMAL)
def aiter_unified(answer: Answer) -> bool:
    """As in AITER's test_unified_attention.py: assert_close, atol 1.5e-2, rtol 1e-2, against float32."""
    return not beyond(answer.out, answer.problem.stored, 1.5e-2, 1e-2).any()


@rule("AITER unified 3-D", NORMAL)
def aiter_unified_3d(answer: Answer) -> bool:
    """As in AITER's test_unified_attention.py, 3-D kernel: 1.5e-2 and 1e-2, and 1 % of the elements may be beyond."""
    return float(beyond(answer.out, answer.problem.stored, 1.5e-2, 1e-2).float().mean()) <= 0.01


@rule("AITER unified fp8", NORMAL_E4M3)
def aiter_unified_fp8(answer: Answer) -> bool:
    """As in AITER's test_unified_attention.py, fp8 K and V: assert_close, atol and rtol 0.15."""
    return not beyond(answer.out, answer.problem.stored, 0.15, 0.15).any()


@rule("AITER unified fp8, scaled", NORMAL_E4M3)
def aiter_unified_fp8_scaled(answer: Answer) -> bool:
    """As in AITER's test_unified_attention.py, Gluon with fp8 scales: less than 0.5 % off by > 0.15 + 0.15 |want|."""
    return float(greater(answer.out, answer.problem.stored, 0.15, 0.15).float().mean()) < 0.005


@rule("AITER pa_v1", UNIFORM)
def aiter_pa_v1(answer: Answer) -> bool:
    """As in AITER's test_pa_v1.py: less than 1 % of the elements beyond atol 1e-2, rtol 1e-2."""
    return float(beyond(answer.out, answer.problem.stored, 1e-2, 1e-2).float().mean()) < 0.01


@rule("AITER pa_prefill", TINY)
def aiter_pa_prefill(answer: Answer) -> bool:
    """As in AITER's test_pa_prefill.py and test_chunked_pa_prefill.py: assert_close, atol 1e-2, rtol 1e-2."""
    return not beyond(answer.out, answer.problem.stored, 1e-2, 1e-2).any()


# -- vLLM --------------------------------------------------------------------------------------------------------------


@rule("vLLM rocm_aiter_fa", NORMAL)
def vllm_aiter(answer: Answer) -> bool:
    """As in vLLM's test_rocm_aiter_fa.py and test_triton_unified_attention.py: 1.5e-2, 1e-2, against a 16-bit run."""
    return not beyond(answer.out, answer.problem.low_scaled_q, 1.5e-2, 1e-2).any()


@rule("vLLM backends", NORMAL)
def vllm_backends(answer: Answer) -> bool:
    """As in vLLM's test_attention_backends.py: finite, and atol 1e-2, rtol 1e-2, against a 16-bit run."""
    return not beyond(answer.out, answer.problem.low_scaled_q, 1e-2, 1e-2).any()


@rule("vLLM prefix_prefill", TINY)
def vllm_prefix_prefill(answer: Answer) -> bool:
    """As in vLLM's test_prefix_prefill.py: assert_close, atol 1e-4, rtol 0."""
    return not beyond(answer.out, answer.problem.stored, 1e-4, 0.0).any()


# -- FlashAttention, and AITER's test of its own port ------------------------------------------------------------------


@rule("FlashAttention 3x", NORMAL)
def flash_attention(answer: Answer) -> bool:
    """As in FlashAttention's test_flash_attn.py, AITER's test_mha_v3.py: max error <= 3 x a 16-bit run's + 1e-5."""
    error, low = _against_low_precision(answer)
    return float(error.max()) <= 3 * float(low.max()) + 1e-5


@rule("FlashAttention-3 2x, 1.5x", NORMAL)
def flash_attention_3(answer: Answer) -> bool:
    """As in FlashAttention's hopper/test_flash_attn.py: max error <= 2 x a 16-bit run's + 1e-5, mean error <= 1.5 x."""
    error, low = _against_low_precision(answer)
    return float(error.max()) <= 2 * float(low.max()) + 1e-5 and float(error.mean()) <= 1.5 * float(low.mean())


def _against_low_precision(answer: Answer) -> tuple[Tensor, Tensor]:
    """Errors of the answer and of the plain 16-bit run, both against the reference as it is stored."""
    want = answer.problem.stored.float()
    return (answer.out.float() - want).abs(), (answer.problem.low.float() - want).abs()


# -- flashinfer --------------------------------------------------------------------------------------------------------


@rule("flashinfer prefill", NORMAL_FP16)
def flashinfer_prefill(answer: Answer) -> bool:
    """As in flashinfer's test_batch_prefill_kernels.py: assert_close, atol 1e-3, rtol 1e-3, fp16."""
    return not beyond(answer.out, answer.problem.stored, 1e-3, 1e-3).any()


@rule("flashinfer decode, drafts", NORMAL)
def flashinfer_decode(answer: Answer) -> bool:
    """As in flashinfer's test_trtllm_gen_attention_decode.py: 2e-2, 2e-2, one of 20,000 elements may be beyond."""
    wrong = beyond(answer.out, answer.problem.stored, 2e-2, 2e-2)
    return int(wrong.sum()) <= math.floor(5e-5 * wrong.numel())


@rule("flashinfer-bench", NORMAL)
def flashinfer_bench(answer: Answer) -> bool:
    """As in flashinfer-bench's default evaluator: finite, no absolute and relative error both above 1e-2."""
    out, want = answer.out.float(), answer.problem.stored.float()
    error = (out - want).abs()
    return bool(out.isfinite().all()) and not ((error > 1e-2) & (error > 1e-2 * want.abs())).any()


@rule("flashinfer for AMD", SMALL_NORMAL)
def flashinfer_amd(answer: Answer) -> bool:
    """As in AMD's flashinfer, test_batch_decode_aiter_hip.py: assert_close, atol 5e-3, rtol 5e-3, bf16."""
    return not beyond(answer.out, answer.problem.stored, 5e-3, 5e-3).any()


# -- ours --------------------------------------------------------------------------------------------------------------


@rule(OURS, NORMAL, NORMAL_FP16, NEEDLE, SHIFTED, LARGE)
def ours(answer: Answer) -> bool:
    """As in conformance.judge: a bound for every element, noise of every row and of the case, lse if given."""
    verdict = judge(answer.problem.case, answer.problem.want, answer.out, answer.lse, answer.profile)
    return verdict.status is Status.PASS


# -- one rule, sequence by sequence ------------------------------------------------------------------------------------


def flash_attention_by_sequence(answer: Answer) -> bool:
    """The rule of FlashAttention, applied to every sequence on its own."""
    starts = answer.problem.case.query_starts
    error, low = _against_low_precision(answer)
    parts = [slice(*rows) for rows in pairwise(starts)]
    return all(float(error[rows].max()) <= 3 * float(low[rows].max()) + 1e-5 for rows in parts)


RAGGED_RULES = [
    *(rule for rule in RULES if rule.draw in (NORMAL, NEEDLE)),
    Rule("FlashAttention 3x, by sequence", NORMAL, flash_attention_by_sequence),
]
"""The rules that a ragged batch is shown to: those on unit normal inputs, and ours on both."""
