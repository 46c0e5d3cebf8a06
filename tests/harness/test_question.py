"""The question taken apart gives the oracle's answer, and what it is judged by, as long as nothing of it is changed."""

from dataclasses import fields, replace

import pytest
import torch

from conformance.case import Case
from conformance.triage.question import Question
from conformance.triage.softmax import Tiled
from reference import RoundingSums
from tests.harness.judged import problem

CASES = [
    "decode-noncausal-bf16-b3-q4-h4:2-d16-p4-kv21+5+9-packed-random",
    "decode-causal-bf16-b2-q8-h2:1-d16-p4-kv3+20-packed-random",
    "decode-causal-bf16-b3-q6+0+2-h4:2-d64-p16-kv90+20+33-w7:0-padded-random",
    "decode-noncausal-bf16-b2-q5-h4:2-d32-p16-kv50+37-w9:3-sliced-poison.tails",
    "decode-causal-bf16-b2-q4-h4:4-d32-p16-kv60+0-softcap2-alibi-sinks-interleaved-random",
    "decode-causal-bf16-b2-q4-h4:2-d32-p16-kv50+37-cache.e4m3fnuz-q.e4m3fnuz-descale.head-packed-random",
]


@pytest.mark.parametrize("name", CASES)
def test_unchanged_it_is_the_oracle(name: str) -> None:
    case = Case.parse(name)
    inputs, want = problem(case)
    answer = Question.of(case, inputs).answer(sums=True)
    torch.testing.assert_close(answer.out, want.out, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(answer.lse, want.lse, rtol=1e-9, atol=1e-12)
    assert answer.sums is not None
    for field in fields(RoundingSums):
        torch.testing.assert_close(
            getattr(answer.sums, field.name), getattr(want.sums, field.name), rtol=1e-8, atol=1e-10
        )


def test_some_rows_are_those_rows_of_the_whole() -> None:
    case = Case.parse(CASES[2])
    question = Question.of(case, problem(case)[0])
    torch.testing.assert_close(question.answer([7, 0, 3]).out, question.answer().out[[7, 0, 3]])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("tile", "splits"), [(4, 1), (16, 3)])
def test_softmax_in_tiles_and_splits_is_softmax(name: str, tile: int, splits: int) -> None:
    case = Case.parse(name)
    inputs, want = problem(case)
    answer = replace(Question.of(case, inputs), softmax=Tiled(tile=tile, splits=splits)).answer()
    torch.testing.assert_close(answer.out, want.out, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(answer.lse, want.lse, rtol=1e-9, atol=1e-12)
