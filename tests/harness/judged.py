"""Cases with their inputs and exact answers, each made once a process, and answers to be judged."""

from functools import cache

import torch
from torch import Tensor

from conformance.case import Case
from conformance.execute import exact
from conformance.inputs import Inputs, make
from conformance.judge import Verdict, judge
from reference import Attention


@cache
def problem(case: Case) -> tuple[Inputs, Attention]:
    inputs = make(case)
    return inputs, exact(case, inputs)


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
