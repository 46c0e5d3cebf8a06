"""Does the judge ever fail a correct kernel? Random legal cases, each answered by every correct emulation.

    python -m benchmarks.false_alarms --cases 3400 -j 2
    python -m benchmarks.false_alarms --cases 3400 --first 3400            goes on where that one ended
    python -m benchmarks.false_alarms --cases 2000 --backend aiter --target gpu --aiter REPO@v0.1.20

With `--backend` a real system answers instead, and everything that is not PASS is listed. Exit codes: 0 nothing was
failed, 1 something was, 2 bad usage, 3 interrupted, or a process died.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from typing import TypeVar

import torch

from benchmarks.alarm_tally import Tally
from benchmarks.random_cases import draw
from conformance import execute, manifest
from conformance.case import Case
from conformance.inputs import make
from conformance.judge import judge
from conformance.system import NotReady, System, choose
from tests.harness.correct import CORRECT

CLEAN, ALARMS, BAD_USAGE, INCOMPLETE = range(4)

AT_A_TIME = 8
"""Cases that a process takes at once: what is lost, and must be searched, if it dies."""

WAITING = 4
"""So many portions wait for each process."""


def main(arguments: list[str] | None = None) -> int:
    """Judge what was asked for, say what came of it, and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.cases < 0 or options.first < 0 or options.jobs < 1 or not (options.cases or options.tier):
        print("false_alarms: a number of cases, or a tier, and a number of jobs are needed", file=sys.stderr)
        return BAD_USAGE
    chosen = (options.backend, options.target, options.aiter)
    try:
        tier = [case.id for case in manifest.cases(options.tier)] if options.tier else []
        system = choose(*chosen) if any(chosen) else None
    except (manifest.BadTier, *NotReady) as e:
        print(f"false_alarms: {e}", file=sys.stderr)
        return BAD_USAGE
    who = f"{system.name} on {system.target_spec}" if system else f"{len(CORRECT)} correct emulations"
    print(f"{who}: {_what(options)}", flush=True)
    numbers = range(options.first, options.first + options.cases)
    work: list[Portion] = [partial(_tier_cases, ids) for ids in _portions(tier)]
    work += [partial(_drawn_cases, options.seed, part) for part in _portions(numbers)]
    total, ended = _judge_all(work, chosen if any(chosen) else None, options.jobs, len(tier) + len(numbers))
    print("\n".join(total.lines()))
    if ended:
        print(f"INCOMPLETE: {ended}")
        return INCOMPLETE
    print("NOT CLEAN." if total.wrong else "CLEAN: nothing was failed.")
    return ALARMS if total.wrong else CLEAN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.false_alarms", description="Does the judge ever fail a correct kernel?"
    )
    parser.add_argument("--cases", type=int, default=0, help="how many random cases")
    parser.add_argument("--first", type=int, default=0, help="the number of the first: earlier ones were judged before")
    parser.add_argument("--seed", type=int, default=0, help="other cases for every seed")
    parser.add_argument("--tier", help="the cases of a tier as well")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes")
    parser.add_argument("--backend", help="a real system instead of the emulations: as for `conformance run`")
    parser.add_argument("--target")
    parser.add_argument("--aiter", metavar="SOURCE")
    return parser


def _what(options: argparse.Namespace) -> str:
    drawn = f"random cases {options.first} to {options.first + options.cases - 1} of seed {options.seed}"
    parts = [f"tier {options.tier}"] * bool(options.tier) + [drawn] * bool(options.cases)
    return " and ".join(parts)


T = TypeVar("T")
Portion = Callable[[], Iterator[Case]]
Chosen = tuple[str | None, str | None, str | None]


def _portions(cases: Sequence[T]) -> Iterator[Sequence[T]]:
    return (cases[at : at + AT_A_TIME] for at in range(0, len(cases), AT_A_TIME))


def _tier_cases(ids: Sequence[str]) -> Iterator[Case]:
    return map(Case.parse, ids)


def _drawn_cases(seed: int, numbers: Sequence[int]) -> Iterator[Case]:
    return (draw(seed, number) for number in numbers)


def _judge_all(work: list[Portion], chosen: Chosen | None, jobs: int, count: int) -> tuple[Tally, str]:
    """What all portions came to, and why that is not all, if it is not."""
    total, started, shown = Tally(), time.monotonic(), 0.0
    waiting = iter(work)
    running: dict[Future[Tally], Portion] = {}
    # A process of its own even where there is but one: a fault of a GPU ends it, and what was found before is kept.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    try:
        while True:
            for portion in waiting:
                running[pool.submit(_judge, portion, chosen)] = portion
                if len(running) >= WAITING * jobs:
                    break
            if not running:
                pool.shutdown()
                return total, ""
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                total.add(future.result())
                del running[future]
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                left = (shown - started) / max(1, total.cases) * (count - total.cases)
                print(f"{total.cases} of {count} cases, {total.failed} failed, {left:.0f} s left", file=sys.stderr)
    except BrokenProcessPool:
        among = [case.id for portion in list(running.values())[:jobs] for case in portion()]
        return total, "\n  ".join(["a process died, at one of:", *among])
    except NotReady as e:
        return total, str(e)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        return total, f"interrupted after {total.cases} of {count} cases"


def _judge(portion: Portion, chosen: Chosen | None) -> Tally:
    torch.set_num_threads(1)
    tally = Tally()
    for case in portion():
        tally.cases += 1
        if chosen is None:
            _answer_with_emulations(case, tally)
        else:
            system, target = _started(chosen)
            verdict = execute.run(case, system.backend, target)
            tally.note(case, verdict.path or system.backend.name, verdict)
    return tally


def _answer_with_emulations(case: Case, tally: Tally) -> None:
    inputs = make(case)
    want = execute.exact(case, inputs)
    for name, kernel in CORRECT.items():
        tally.note(case, name, judge(case, want, *kernel(case, inputs), kernel.profile(case)))


@cache
def _started(chosen: Chosen) -> tuple[System, execute.Target]:
    """The system under test, once a process."""
    system = choose(*chosen)
    return system, system.start()


if __name__ == "__main__":
    sys.exit(main())
