"""Runs each version in a process of its own, so many at once; what one has found is kept, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from conformance.qualify.places import child_environment
from conformance.qualify.store import Job, Store
from conformance.record import Record
from conformance.summary import duration, in_words

LOOK, SAY = 0.2, 15.0
"""Seconds between two looks at the children, and between two lines of progress."""

GRACE = 10.0
"""Seconds that an interrupted child has to close its record: every line of it is on disk already."""


@dataclass
class Running:
    """A child that runs what is left of a job."""

    job: Job
    left: int
    child: subprocess.Popen[bytes]
    started: float = field(default_factory=monotonic)

    @property
    def done(self) -> int:
        """Checks that have a line in the draft."""
        try:
            return min(self.left, max(0, self.job.draft.read_bytes().count(b"\n") - 1))
        except OSError:
            return 0

    def stop(self) -> None:
        """As Ctrl-C would; then by force, with whatever it has started."""
        with suppress(ProcessLookupError):
            self.child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


@dataclass
class Qualification:
    """What is left of the jobs, `at_once` of them at a time; `words` go to each run."""

    store: Store
    at_once: int
    words: Sequence[str]
    again: bool
    lock: int
    failed: dict[Path, str] = field(default_factory=dict)
    """What runs that left results out said last, by the files of their jobs."""

    def run(self, jobs: Sequence[Job]) -> None:
        """All of them. On KeyboardInterrupt what every child has is taken over, and it is raised again."""
        waiting = [(job, len(job.plan.every if self.again else self.store.left(job))) for job in jobs]
        waiting = [(job, left) for job, left in waiting if left]
        total, finished = sum(left for _, left in waiting), 0
        began = said = monotonic()
        if total:
            at_once = f", {self.at_once} at once" if self.at_once > 1 else ""
            _say(f"{total} checks to run, in {len(waiting)} run{'s' if len(waiting) > 1 else ''}{at_once}")
        running: list[Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    running.append(self._start(*waiting.pop(0)))
                sleep(LOOK)
                for one in [one for one in running if one.child.poll() is not None]:
                    running.remove(one)
                    self._end(one)
                    finished += one.left
                done = finished + sum(one.done for one in running)
                if total > done > total / 20 and monotonic() - said > SAY:
                    said = monotonic()
                    _say(f"{done} of {total} checks, about {duration((said - began) / done * (total - done))} left")
        except KeyboardInterrupt:
            for one in running:
                one.stop()
                self._end(one, interrupted=True)
            raise

    def _start(self, job: Job, left: int) -> Running:
        held = [] if self.again or not job.file.exists() else [f"--leave-out={job.file.absolute()}"]
        named = (("backend", job.place.backend), ("target", job.place.spec), ("aiter", job.version.spec))
        command = [str(job.place.python), "-m", "conformance", "run", *(f"--{name}={value}" for name, value in named),
                   *held, f"--record={job.draft.absolute()}", "-p", "no:cacheprovider", *self.words]  # fmt: skip
        with job.log.open("wb") as log:
            # A group of its own: Ctrl-C in a terminal reaches this process alone, which stops its children in order.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=child_environment(job.place.python), pass_fds=[self.lock],
            )  # fmt: skip
        return Running(job, left, child)

    def _end(self, one: Running, *, interrupted: bool = False) -> None:
        record = self.store.take_over(one.job)
        if record is None or not record.complete:
            if not interrupted:
                self.failed[one.job.file] = _last_words(one)
        else:
            one.job.log.unlink(missing_ok=True)
        _say(f"{one.job.described}: {_found(record)}, in {duration(monotonic() - one.started)}"
             + (", interrupted" if interrupted else ""))  # fmt: skip


def _found(record: Record | None) -> str:
    return ", ".join(in_words(record.counts)) if record else "no result"


def _last_words(one: Running) -> str:
    """The last line that says anything of what a child has printed, and where the rest is."""
    lines = [line.strip("= ") for line in one.job.log.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line]
    return f"its run ended early: {said[-1] if said else f'exit code {one.child.returncode}'} ({one.job.log})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
