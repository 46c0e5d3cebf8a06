"""Graphs on a CPU: a "capture" is a call, a "replay" the same call again, and backends that remember too much between.

What a captured graph holds fast (a pointer, a number that host code read) a defect holds fast in plain Python.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conformance.backends import Answer, Backend
from conformance.case import Case
from conformance.inputs import Inputs
from tests.harness.flash import Flash

Attend = Callable[[Case, Inputs], tuple[Tensor, Tensor]]


def right(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """By the lengths that the buffers hold, not by those of the case."""
    lengths = tuple(inputs.seq_lens.tolist())
    return Flash(tile=16)(replace(case, seq_lens=lengths), inputs)


@dataclass
class Phase:
    """What is going on: "eager", "capture" or "replay", of which call, and how many replays it has seen."""

    name: str = "eager"
    call: int = 0
    replays: int = 0


PHASE = Phase()


class Captured:
    """Stands for `conformance.graphs.Captured`: the same life, on a CPU."""

    calls = 0

    def __init__(self, backend: Backend, case: Case, inputs: Inputs, pool: object = None) -> None:
        Captured.calls += 1
        self.number, self.replays = Captured.calls, 0
        self.call = lambda: backend.answer(case, inputs)
        self._in("capture")

    def replay(self) -> Answer:
        self.replays += 1
        return self._in("replay")

    def _in(self, phase: str) -> Answer:
        PHASE.name, PHASE.call, PHASE.replays = phase, self.number, self.replays
        try:
            return self.call()
        finally:
            PHASE.name = "eager"


def holding_fast(*names: str) -> Attend:
    """A backend that in a replay still has the tensors of these names as they were at capture."""
    held: dict[int, dict[str, Any]] = {}

    def attend(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
        if PHASE.name == "capture":
            held[PHASE.call] = {name: getattr(inputs, name).clone() for name in names}
        if PHASE.name == "replay":
            inputs = replace(inputs, **held[PHASE.call])
        return right(case, inputs)

    return attend


def never_longer_than_at_capture(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    if PHASE.name == "capture":
        never_longer_than_at_capture.held = inputs.seq_lens.clone()  # type: ignore[attr-defined]
    if PHASE.name == "replay":
        inputs = replace(inputs, seq_lens=torch.minimum(inputs.seq_lens, never_longer_than_at_capture.held))  # type: ignore[attr-defined]
    return right(case, inputs)


def tires(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """A counter that the graph increments, and nobody resets."""
    out, lse = right(case, inputs)
    return (out * 0.5 if PHASE.name == "replay" and PHASE.replays > 7 else out), lse


def writes_nothing_the_second_time(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    out, lse = right(case, inputs)
    return (out.fill_(torch.nan) if PHASE.name == "replay" and PHASE.replays == 2 else out), lse


def scratch_of_the_last_capture(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Graphs that share a pool, and scratch that only the newest of them owns."""
    out, lse = right(case, inputs)
    return (out * 2 if PHASE.name == "replay" and Captured.calls > PHASE.call else out), lse


def wrong_everywhere(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    out, lse = right(case, inputs)
    return out + 1, lse


def never_the_same(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    out, lse = right(case, inputs)
    never_the_same.calls = getattr(never_the_same, "calls", 0) + 1  # type: ignore[attr-defined]
    return out * (1 + 2.0**-8 * (never_the_same.calls % 3)), lse  # type: ignore[attr-defined]


def cannot_be_captured(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    if PHASE.name == "capture":
        raise RuntimeError("operation not permitted when stream is capturing")
    return right(case, inputs)
