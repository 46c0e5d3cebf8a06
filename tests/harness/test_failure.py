"""What a person reads of a failure: what is wrong, and where."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conformance.case import Case
from conformance.failure import text, where
from conformance.judge import Verdict, locate
from conformance.status import Status
from tests.harness.judged import PLAIN, judged, right, spoiled


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
