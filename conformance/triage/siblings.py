"""The same case once more, and with one thing changed: what else fails says where to look."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from conformance.backends import Answer
from conformance.case import BadCase, Case
from conformance.execute import Prepared, run
from conformance.system import System
from conformance.targets import Target


def repeats(case: Case, system: System, target: Target, answer: Answer, times: int) -> Iterator[tuple[str, str]]:
    """Does the same call, on inputs made anew, give the same bits?"""
    for _ in range(times):
        heard: list[Answer] = []

        def hear(_case: Case, _prepared: Prepared, again: Answer, heard: list[Answer] = heard) -> str:
            heard.append(again)
            return ""

        verdict = run(case, system.backend, target, looks=hear)
        if not heard:
            yield "repeats", f"no: another call is {verdict.status}"
            return
        first, second = (torch.where(x.out.isnan(), 0, x.out) for x in (answer, heard[0]))
        same_nan = torch.equal(answer.out.isnan(), heard[0].out.isnan())
        if not same_nan or not torch.equal(first, second):
            yield "repeats", "no: another call gives other bits"
            return
    yield "repeats", f"bit for bit, in {times} more calls"


def siblings(case: Case, system: System, target: Target) -> Iterator[tuple[str, str]]:
    """What becomes of the case with one thing changed, where it has that thing."""
    for words, other in _others(case):
        verdict = run(other, system.backend, target)
        path = f" ({verdict.path})" if verdict.path else ""
        yield "with", f"{words}: {verdict.status}{path}"


def _others(case: Case) -> Iterator[tuple[str, Case]]:
    changes: list[tuple[str, dict[str, object]]] = [
        ("a causal mask, another kernel path" if not case.causal else "no causal mask, another kernel path",
         {"causal": not case.causal}),
        ("contiguous caches", {"layout": "contiguous"}),
        ("random inputs", {"regime": "random"}),
        ("no window", {"window": (-1, -1)}),
        ("a bound of its own longest sequence", {"max_keys": 0}),
        ("caches of its own dtype",
         {"cache_dtype": "", "per_head_descales": False, "per_sequence_descales": False, "q_dtype": ""}),
    ]  # fmt: skip
    for words, change in changes:
        try:
            other = replace(case, **change)  # type: ignore[arg-type]
        except BadCase:
            continue
        if other != case:
            yield words, other
