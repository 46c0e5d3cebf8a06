"""The fuzz tier: cases drawn without end, until one fails; that is shrunk to a small one, whose id replays it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from hypothesis import HealthCheck, Phase, given, seed, settings

from conformance import realize
from conformance.axes import AXES
from conformance.case import Case
from conformance.cost import seconds
from conformance.drawing import DEAR, cases
from conformance.execute import run
from conformance.failure import text
from conformance.judge import Verdict
from conformance.rounding import CACHE_DTYPES
from conformance.status import Status
from conformance.summary import duration
from conformance.system import System
from conformance.targets import Target

DRAWS = 20
"""For each case that is to run: a backend may decline some, and some are avoided or too dear. Then it is enough."""

SHRINKING = 120.0
"""Seconds after which the smallest failure that was found so far is good enough."""

REPORT_EVERY = 10.0

AVOIDABLE = (
    frozenset(level for axis in AXES for level in axis.levels if level[0].isalpha() and level != "none")
    | {f"{what}.{dtype}" for what in ("cache", "q") for dtype in CACHE_DTYPES}
    | {"extend", "prefill", "descale.head", "descale.seq"}
)
"""What a case may be told by: levels that have a name of their own, and what the axes do not have."""

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

WITHOUT_END = 2**31 - 1


class _Failing(Exception):
    """A case fails in the same way as the first that failed: Hypothesis shrinks it."""


class _Enough(BaseException):
    """The time is over, or all cases ran. Not an Exception, which Hypothesis would take for a failure of the case."""


@dataclass
class Fuzz:
    """One session. `say` gets each line that a person should read."""

    system: System
    target: Target
    say: Callable[[str], None]
    avoid: frozenset[str] = frozenset()  # levels of the axes: a case that has one is drawn again
    before_each: Callable[[Case], None] = lambda _: None
    seconds: float = inf
    counts: Counter[str] = field(default_factory=Counter)
    smallest: tuple[Case, Verdict] | None = None
    started: float = 0.0
    failed_at: float = 0.0
    said_at: float = 0.0
    interrupted: bool = False

    def go(self, number_of_cases: int, seed_number: int) -> bool:
        """Run so many cases, or until the time is over or Ctrl-C; False if one failed, which is then reported.

        Fewer run where DRAWS times as many draws do not yield them.
        """
        self.started = self.said_at = monotonic()

        @seed(seed_number)
        @settings(
            max_examples=min(DRAWS * number_of_cases, WITHOUT_END),
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=SLOW_IS_FINE,
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(cases())
        def draw(case: Case) -> None:
            if self.ran >= number_of_cases and self.smallest is None:
                raise _Enough
            self._try(case)

        try:
            draw()
        except (_Failing, _Enough):
            pass
        except KeyboardInterrupt:
            self.interrupted = True
        self.say(f"{'interrupted; ' if self.interrupted else ''}{self._counted()}, seed {seed_number}")
        if self.smallest is None:
            return True
        case, verdict = self.smallest
        self.say(text(case, verdict, self.system.name, self.target.name, self.system.repro(case.id)))
        return False

    def _try(self, case: Case) -> None:
        now = monotonic()
        if now > (self.failed_at + SHRINKING if self.smallest else self.started + self.seconds):
            raise _Enough
        if now > self.said_at + REPORT_EVERY:
            self.said_at = now
            self.say(f"{self._counted()}, {'shrinking' if self.smallest else 'drawing'}")
        if kinds(case) & self.avoid:
            self.counts["avoided"] += 1
            return
        if seconds(case) > DEAR:
            self.counts["too dear"] += 1
            return
        self.before_each(case)
        verdict = run(case, self.system.backend, self.target)
        if self.smallest is None:
            self.counts[verdict.status] += 1
        if verdict.status.conformant or (self.smallest and verdict.status is not self.smallest[1].status):
            return
        if self.smallest is None:
            self.failed_at = now
        if self.smallest is None or _size(case) < _size(self.smallest[0]):
            self.smallest = case, verdict
        raise _Failing

    @property
    def ran(self) -> int:
        """Cases that the backend did not decline."""
        return sum(self.counts[status] for status in Status if status.ran)

    def _counted(self) -> str:
        total = sum(self.counts[status] for status in Status)
        parts = [f"{self.counts[name]} {name}" for name in (*Status, "avoided", "too dear") if self.counts[name]]
        return f"{total} cases in {duration(monotonic() - self.started)}: {', '.join(parts) or 'none'}"


def kinds(case: Case) -> frozenset[str]:
    """The levels that a case has, of any axis; `short` and `padded` if any of its sequences is so."""
    lens = list(zip(case.query_lens, case.seq_lens, strict=True))
    some = {level for levels in realize.levels(case).values() for level in levels}
    some |= {"short"} if any(0 < n < m for m, n in lens) else set()
    some |= set(case.kinds) | ({f"q.{case.q_dtype}"} if case.q_dtype else set())
    some |= {"descale.head"} if case.per_head_descales else set()
    some |= {"descale.seq"} if case.per_sequence_descales else set()
    return frozenset(some | ({"padded"} if any(m and not n for m, n in lens) else set()))


def _size(case: Case) -> tuple[int, int, int]:
    """What is smaller is easier to look at."""
    keys = sum(case.seq_lens) * case.kv_heads
    return (case.tokens * case.q_heads + keys) * case.head_dim, case.batch, len(case.id)
