"""What the suite itself costs a case, beside the kernel: inputs, their way to the device, oracle, judge; and isolation.

    python -m benchmarks.suite_overhead --tier core [--device cuda]

Milliseconds a case, by a clock that waits for the device. No kernel runs: what is judged is the oracle's own answer in
the case's dtype. Isolation is what a check takes in a child process on top of what it takes in this one.
"""

import argparse
import sys
from collections.abc import Callable
from statistics import mean, median
from time import perf_counter
from typing import TypeVar

import torch

from conformance import manifest
from conformance.case import Case
from conformance.check import Check
from conformance.execute import exact
from conformance.inputs import TORCH_DTYPE, make
from conformance.isolate import Isolation
from conformance.judge import judge
from conformance.outcome import of_check
from conformance.system import choose

Result = TypeVar("Result")

STEPS = ("inputs", "to the device", "oracle", "judge")

CHEAP = "decode-noncausal-bf16-b1-q2-h2:1-d16-p16-kv{}-packed-random"
ROUND_TRIPS = 200


def main() -> int:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description="What the suite itself costs a case.")
    parser.add_argument("--tier", default="core")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--most-keys", type=int, default=1 << 31, metavar="N", help="leave out longer contexts")
    options = parser.parse_args()
    cases = [case for case in manifest.cases(options.tier) if case.page_order != "huge"]
    cases = [case for case in cases if max(case.seq_lens) <= options.most_keys]
    if options.device == "cpu":
        torch.set_num_threads(1)
    of_case(cases[0], torch.device(options.device))  # what is loaded once is no case's
    taken = {case: of_case(case, torch.device(options.device)) for case in cases}
    print(f"{len(cases)} cases of {options.tier} on {options.device}, ms a case")
    for step, every in [*((s, [t[s] for t in taken.values()]) for s in STEPS), ("all", [*map(total, taken.values())])]:
        print(f"{step:14} mean {mean(every):8.2f}   median {median(every):8.2f}   largest {max(every):8.1f}")
    for case in sorted(taken, key=lambda case: total(taken[case]))[-3:]:
        parts = ", ".join(f"{step} {taken[case][step]:.0f}" for step in STEPS)
        print(f"  {total(taken[case]):6.0f} ms  {case.id}: {parts}")
    print_isolation()
    return 0


def total(steps: dict[str, float]) -> float:
    """Of one case."""
    return sum(steps.values())


def of_case(case: Case, device: torch.device) -> dict[str, float]:
    """Milliseconds of each step."""
    taken: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Result]) -> Result:
        started = perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken[step] = (perf_counter() - started) * 1e3
        return result

    made = timed("inputs", lambda: make(case))
    inputs = timed("to the device", lambda: made.to(device))
    want = timed("oracle", lambda: exact(case, inputs))
    out = want.out.to(TORCH_DTYPE[case.dtype])
    timed("judge", lambda: judge(case, want, out))
    return taken


def print_isolation() -> None:
    """A cheap check here and in a child, one after the other, so that both meet the same machine."""
    system = choose("torch", "cpu", None)
    target = system.start()
    isolation = Isolation(system, time_limit=60)
    started = perf_counter()
    isolation.run(Check.parse(CHEAP.format(9)))
    start = perf_counter() - started
    here, there = [], []
    for keys in range(10, 10 + ROUND_TRIPS):
        check = Check.parse(CHEAP.format(keys))
        for run, times in ((lambda c: of_check(c, system, target), here), (isolation.run, there)):
            started = perf_counter()
            run(check)
            times.append((perf_counter() - started) * 1e3)
    isolation.close()
    print(f"isolation: {median(there) - median(here):.1f} ms a check on top of {median(here):.1f} (medians of "
          f"{ROUND_TRIPS}); the start of a child {start:.1f} s")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
