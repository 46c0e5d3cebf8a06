"""Running checks in a child process that may die: how it ends is a verdict, and the next check gets a new child.

A child serves one check after another until it dies, hangs or says that its GPU is lost, so that isolation costs a
message there and back a check, and a start of Python, torch and AITER only where something went wrong.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import IO, Any

from conformance.check import Check
from conformance.judge import Verdict
from conformance.outcome import Outcome, of_verdict
from conformance.status import Status
from conformance.system import System

MODES = ("all", "risky", "none")
"""Which checks run in a child. Where all do, the process that asks imports no AITER and leaves the GPU alone."""

DEFAULT_MODE = {"gpu": "all", "interpreter": "all"}
"""By kind of target, elsewhere "risky": a kernel's fault spoils what comes after it on a GPU, and ends the process that
interprets it. Where no kernel runs there are none."""

TIME_LIMIT = {"gpu": 180.0}
"""Seconds for a check, kernels compiled, by kind of target."""

TIME_LIMIT_ELSEWHERE = 1800.0
"""An interpreted kernel takes its time."""

START_LIMIT = 300.0
"""Seconds in which a child must have imported torch and AITER."""

LAST_WORDS = 0.5
"""Seconds for a child that hangs to write down where."""


def is_risky(check: Check) -> bool:
    """Might a kernel that is wrong here take its process along, or leave a GPU that nothing works on?

    Ids out of range in block tables, caches of gigabytes, sequences without a query, or without a key for a causal
    mask, and captured graphs.
    """
    case, relation = check.case, check.relation
    lacks_rows = 0 in case.query_lens or (case.causal and 0 in case.seq_lens)
    risky = case.regime == "poison.table" or case.page_order == "huge" or lacks_rows
    return risky or (relation is not None and relation.risky)


@dataclass
class Isolation:
    """The child of this process, started when the first check needs it."""

    system: System
    time_limit: float  # seconds that a check may take
    inherited: dict[str, str] | None = None  # the child's environment; None: as this process has it when one starts
    _child: _Child | None = field(default=None, init=False)
    _refusal: str = field(default="", init=False)  # why no child can run anything, once one has said so

    @property
    def environment(self) -> dict[str, str]:
        """What the child runs in; empty without one that has started."""
        return self._child.environment if self._child else {}

    def start(self) -> None:
        """Begins the start of a child, without waiting for it."""
        if self._child is None:
            self._child = _Child(self.system, self.inherited or child_environment())

    def run(self, check: Check) -> Outcome:
        """What came of a check in the child: CRASH if that died over it, TIMEOUT if there was no answer in time."""
        if self._refusal:
            return self._not_run(check)
        self.start()
        child = self._child
        assert child is not None
        try:
            if not child.target:
                child.await_start()
            child.ask(check.id)
            answer = child.answer(self.time_limit)
        except _Refused as refused:
            self.close()
            self._refusal = str(refused)
            return self._not_run(check)
        except _Silent:
            where = child.hung()
            self.close()
            return self._lost(check, child, Status.TIMEOUT, f"no answer in {self.time_limit:g} s{where}")
        except _Died:
            reason = child.died()
            self.close()
            if child.last:
                reason += self._alone(check, child.last)
            return self._lost(check, child, Status.CRASH, reason)
        child.last = check.id
        if answer["lost"]:
            self.close()
            return self._lost(check, child, Status.CRASH, f"the GPU is lost to the process: {answer['lost']}")
        return Outcome(answer["result"], answer["text"])

    def _alone(self, check: Check, before: str) -> str:
        """What comes of a check that was not the first of a process that died: an earlier one may have harmed it."""
        again = self.run(check)
        self.close()
        if again.status is Status.CRASH:
            return "; as the first of a process, too"
        return (
            f"; as the first of a process: {again.status}. What ran before it there, {before} the last, is suspect too"
        )

    def close(self) -> None:
        """Ends the child, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _not_run(self, check: Check) -> Outcome:
        return of_verdict(check, Verdict(Status.NOT_RUN, self._refusal), self.system, self.system.target_spec)

    def _lost(self, check: Check, child: _Child, status: Status, reason: str) -> Outcome:
        return of_verdict(check, Verdict(status, reason), self.system, child.target or self.system.target_spec)


def child_environment() -> dict[str, str]:
    """That of a child which can import what this process can, a stranger's backend included."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class _Refused(Exception):
    """The child started, and says in one sentence why nothing can run."""


class _Died(Exception):
    pass


class _Silent(Exception):
    pass


class _Child:
    """A process that runs `conformance.isolated`: ids of checks go in, JSON comes out, by pipes of their own."""

    def __init__(self, system: System, inherited: dict[str, str]) -> None:
        self.target = ""
        self.last = ""  # the check that it answered last
        self.environment: dict[str, str] = {}
        self._received = b""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child lives
        questions, self._questions = os.pipe()
        self._answers, answers = os.pipe()
        command = [sys.executable, "-m", "conformance.isolated", str(questions), str(answers), *system.options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._stderr,
            pass_fds=(questions, answers), env=inherited,
        )  # fmt: skip
        os.close(questions)
        os.close(answers)

    def await_start(self) -> None:
        """Raises _Refused, which a child that died before it could be asked anything is too, or _Silent."""
        try:
            started = self.answer(START_LIMIT)
        except _Died:
            raise _Refused(f"before anything ran {self.died()}") from None
        if "refused" in started:
            raise _Refused(started["refused"])
        self.target, self.environment = started["target"], started["environment"]

    def ask(self, check_id: str) -> None:
        try:
            os.write(self._questions, check_id.encode() + b"\n")
        except BrokenPipeError:
            raise _Died from None

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next line of JSON. Raises _Died or _Silent."""
        ends = monotonic() + seconds
        while b"\n" not in self._received:
            readable, _, _ = select.select([self._answers], [], [], max(0.0, ends - monotonic()))
            if not readable:
                raise _Silent
            received = os.read(self._answers, 65536)
            if not received:
                raise _Died
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def hung(self) -> str:
        """Kills the child; `, in FUNCTION (FILE:LINE)`: where it was, as far as it could say so."""
        self._process.send_signal(signal.SIGUSR1)  # conformance.isolated answers with a traceback, from C
        sleep(LAST_WORDS)
        self._process.kill()
        self._process.wait()
        return self._place()

    def died(self) -> str:
        """How the child ended, in one line."""
        code = self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = self._written()
        lines = [line for line in said.splitlines() if line.strip() and not _OF_TRACEBACK.match(line)]
        spoken = next(iter(lines[-1:] if _PYTHONS in lines else lines), "")
        return f"the process died: {how}{self._place()}" + (f": {spoken.strip()}" if spoken else "")

    def close(self) -> None:
        for pipe in (self._questions, self._answers):
            os.close(pipe)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)  # it ends when there are no more questions
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _place(self) -> str:
        """The innermost frame of the traceback that faulthandler wrote, if it did."""
        frames = _FRAME.findall(self._written())
        if not frames:
            return ""
        file, line, function = frames[0]
        return f", in {function} ({'/'.join(file.split('/')[-3:])}:{line})"

    def _written(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")


_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_PYTHONS = "Traceback (most recent call last):"  # of an exception, which its last line names
_OF_TRACEBACK = re.compile(r"  File |(Current t|T)hread 0x|Fatal Python error|Extension modules|\s*$")
