"""The same case on the other targets of its backend, each in a process of its own: is it the kernel, or the target?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

from conformance.case import Case
from conformance.check import Check
from conformance.isolate import TIME_LIMIT, TIME_LIMIT_ELSEWHERE, Isolation, child_environment
from conformance.outcome import Outcome
from conformance.status import Status
from conformance.system import System, choose
from conformance.targets import SPECS, TargetError, find


class Elsewhere:
    """Made before this process has a target, whose environment is not the others'."""

    def __init__(self, system: System) -> None:
        self._asked = dict(_others(system)) if system.target_kind != "cpu" else {}  # no Triton kernel runs there

    def start(self) -> None:
        """Children start while the caller does something else."""
        for asked in self._asked.values():
            if isinstance(asked, Isolation):
                asked.start()

    def lines(self, case: Case) -> Iterator[tuple[str, str]]:
        """What each target makes of the case; their children end."""
        with ExitStack() as stack:
            for asked in self._asked.values():
                if isinstance(asked, Isolation):
                    stack.enter_context(closing(asked))
            for spec, asked in self._asked.items():
                said = asked if isinstance(asked, str) else _said(spec, asked.run(Check(case)))
                yield "on", f"{spec}: {said}"


def _others(system: System) -> Iterator[tuple[str, Isolation | str]]:
    """By target: what runs checks there, or why nothing does."""
    options = dict(zip(system.options[::2], system.options[1::2], strict=True))
    own, environment = find(system.target_spec), child_environment()
    for spec in SPECS:
        kind = spec.partition(":")[0]
        if kind not in system.backend.targets or spec in ("cpu", "interpreter"):
            continue
        try:
            if find(spec) == own:
                continue
        except TargetError as absent:
            yield spec, str(absent)
            continue
        other = choose(options.get("--backend"), spec, options.get("--aiter"))
        yield spec, Isolation(other, TIME_LIMIT.get(kind, TIME_LIMIT_ELSEWHERE), environment)


def _said(spec: str, outcome: Outcome) -> str:
    """`MISMATCH (kvcache)`; `builds`; the reason of what is neither a pass nor a wrong number."""
    if outcome.status is Status.PASS and spec.startswith("compile"):
        return "builds"
    path, reason = outcome.result.get("path", ""), outcome.result.get("reason", "")
    told = outcome.status in (Status.PASS, Status.MISMATCH, Status.NONFINITE)
    return f"{outcome.status}" + (f" ({path})" if path else "") + (f": {reason}" if reason and not told else "")
