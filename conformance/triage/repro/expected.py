"""What a kernel should have given, as the kernel lays it out: so a script compares without knowing the dispatch.

Where each element of a backend's answer comes from is found by asking the backend again, with a kernel in place of
AITER's that gives the number of each element of its output, a digit at a time: any 16-bit float holds a digit exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conformance.backends import Answer
from conformance.budget import allowance
from conformance.case import Case
from conformance.judge import case_noise_limit, independent_rows
from conformance.triage.repro.heard import Ear, KernelCall
from reference import Attention

IN_PLACE = ("out", "output", "o", "o_extend")
"""How AITER's functions call the argument that they write their output to."""

BASE = 256
"""Digits up to this are exact in bfloat16."""


class NotAView(Exception):
    """A backend's answer is not made of elements of the kernel's output, in one sentence."""


@dataclass(frozen=True)
class Expected:
    """What is wanted, NaN where nothing is: `out`, `bound` and `variance` in the shape of the kernel's output.

    Where the kernel writes in place, that is all of the memory behind the argument `written`: rows around the output
    must be as they were. `lse` and `lse_bound` in the shape of the kernel's lse, or None. float64.
    """

    out: Tensor
    bound: Tensor
    variance: Tensor
    noise_limit: float
    lse: Tensor | None = None
    lse_bound: Tensor | None = None
    written: str = ""


def expected(case: Case, want: Attention, call: KernelCall, ear: Ear, answer: Callable[[], Answer]) -> Expected:
    """What the heard call should have given; `answer` asks the backend again. Raises NotAView."""
    written = next((name for name in IN_PLACE if isinstance(call.arguments.get(name), Tensor)), "")
    given = call.arguments[written] if written else _given(call.returned, 0)
    lse = _given(call.returned, 1)
    if given is None:
        raise NotAView(f"{call.function} neither gives a tensor nor takes one to write to")
    answers = [_labelled(ear, answer, written, call.returned, digit) for digit in range(_digits(given.numel()))]
    allowed = allowance(case, want, answers[0].profile)
    of_out = _positions([one.out for one in answers], given.numel())
    laid_out = [_scattered(of_out, x, given) for x in (want.out, allowed.bound, allowed.variance)]
    if written:
        laid_out = _amid_what_was_there(call, given, laid_out)
    out, bound, variance = laid_out
    found = Expected(out, bound, variance, case_noise_limit(independent_rows(want.out)), written=written)
    if answers[0].lse is None or lse is None:
        return found
    of_lse = _positions([one.lse for one in answers if one.lse is not None], lse.numel())
    return replace(found, lse=_scattered(of_lse, want.lse, lse), lse_bound=_scattered(of_lse, allowed.lse, lse))


def _given(returned: Any, number: int) -> Tensor | None:
    several = returned if isinstance(returned, (tuple, list)) else (returned,)
    given = several[number] if number < len(several) else None
    return given if isinstance(given, Tensor) else None


def _digits(count: int) -> int:
    return max(1, (max(1, count - 1).bit_length() + 7) // 8)


def _labelled(ear: Ear, answer: Callable[[], Answer], written: str, returned: Any, digit: int) -> Answer:
    """The backend's answer where the kernel gives a digit of each element's number."""

    def labels(like: Any) -> Any:
        if not isinstance(like, Tensor):
            return like
        numbers = torch.arange(like.numel(), device=like.device) // BASE**digit % BASE
        return numbers.view(like.shape).to(like.dtype)

    def give(arguments: dict[str, Any]) -> Any:
        if written:
            arguments[written].copy_(labels(arguments[written]))
        return type(returned)(map(labels, returned)) if isinstance(returned, (tuple, list)) else labels(returned)

    ear.instead = give
    try:
        return answer()
    finally:
        ear.instead = None


def _positions(digits: list[Tensor], count: int) -> Tensor:
    """Which element of the kernel's output each of the answer's is, int64, shaped as the answer. Raises NotAView."""
    exact = [digit.double().cpu() for digit in digits]
    numbers = torch.stack([digit * BASE**place for place, digit in enumerate(exact)]).sum(0)
    whole = all(bool((digit == digit.round()).all()) for digit in exact)
    if not whole or bool((numbers >= count).any()) or len(numbers.unique()) < numbers.numel():
        raise NotAView("the backend computes on what the kernel gives, so that the kernel alone cannot be compared")
    return numbers.long()


def _scattered(positions: Tensor, values: Tensor, given: Tensor) -> Tensor:
    laid_out = torch.full((given.numel(),), torch.nan, dtype=torch.float64)
    laid_out[positions.flatten()] = values.double().cpu().flatten()
    return laid_out.view(given.shape)


def _amid_what_was_there(call: KernelCall, output: Tensor, laid_out: list[Tensor]) -> list[Tensor]:
    """Over the memory behind a contiguous `output`, in rows of its own: around it no error is allowed."""
    before = call.memory[output.untyped_storage().data_ptr()].view(output.dtype).double()
    first, row = output.storage_offset(), output.stride(0)
    if not output.is_contiguous() or first % row or len(before) % row:
        raise NotAView(f"{call.function} is to write to memory that is not made of rows of its output")
    around = [before, torch.zeros_like(before), torch.zeros_like(before)]
    for whole, part in zip(around, laid_out, strict=True):
        whole[first : first + output.numel()] = part.flatten()
    return [whole.view(-1, *output.shape[1:]) for whole in around]
