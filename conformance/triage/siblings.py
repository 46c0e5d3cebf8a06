"""The same case once more, and with one thing changed: what else fails says where to look."""

from collections.abc import Iterator
from dataclasses import replace

from conformance.backends import Answer
from conformance.case import BadCase, Case
from conformance.execute import answered, run
from conformance.inputs import make
from conformance.judge import differ
from conformance.status import Status
from conformance.system import System
from conformance.targets import Target


def repeats(case: Case, system: System, target: Target, answer: Answer, times: int) -> Iterator[tuple[str, str]]:
    """Does the same call, on inputs made anew, give the same bits?"""
    for _ in range(times):
        try:
            again, _seconds = answered(case, make(case).to(target.device), system.backend, target)
        except Exception as error:  # what a backend raises the second time
            yield "repeats", f"no: another call raises {type(error).__name__}"
            return
        same = again.out.nan_to_num(nan=1e30), answer.out.nan_to_num(nan=1e30)
        if (
            again.out.shape != answer.out.shape
            or differ(case, (same[0], None), (same[1], None)).status is not Status.PASS
        ):
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
        ("caches of its own dtype", {"cache_dtype": "", "per_head_descales": False, "q_dtype": ""}),
    ]  # fmt: skip
    for words, change in changes:
        try:
            other = replace(case, **change)  # type: ignore[arg-type]
        except BadCase:
            continue
        if other != case:
            yield words, other
