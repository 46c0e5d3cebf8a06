"""Work in forked children: each shares what the parent has computed, may die, and reports in lines of JSON."""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Send = Callable[..., None]

MEMORY = 4 * 2**30
"""Bytes that a child may take beyond what it shares: a mutant may ask for any amount."""

IDLE = 20.0
"""Times its CPU time that a child may take by the clock: it may wait for a busy machine, but not for ever."""


@dataclass
class Ended(Generic[Job]):
    """A child that has ended: what it sent, and the signal that ended it (0: none) or its exit code.

    `raised` is what its work raised, in one line.
    """

    job: Job
    sent: list[dict[str, Any]] = field(default_factory=list)
    signal: int = 0
    code: int = 0
    raised: str = ""

    @property
    def ran_out_of_time(self) -> bool:
        return self.signal in (signal.SIGPROF, signal.SIGALRM)


@dataclass
class _Child(Generic[Job]):
    job: Job
    pid: int
    pipe: int
    received: bytes = b""

    def ended(self) -> Ended[Job]:
        _, status = os.waitpid(self.pid, 0)
        # A child that dies may leave its last line unfinished.
        sent = [json.loads(line) for line in self.received.split(b"\n")[:-1]]
        raised = sent.pop()[_RAISED] if sent and _RAISED in sent[-1] else ""
        code = os.waitstatus_to_exitcode(status)
        return Ended(self.job, sent, max(-code, 0), max(code, 0), raised)


_RAISED = "raised by the work"


def each(jobs: Iterable[Job], work: Callable[[Job, Send], None], at_once: int) -> Iterator[Ended[Job]]:
    """Runs `work(job, send)` in a child for every job, `at_once` of them at a time; gives them as they end.

    A caller that stops early, by an interrupt for one, leaves no child behind.
    """
    waiting = iter(jobs)
    children: dict[int, _Child[Job]] = {}
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page that it shares
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                while len(children) < at_once and (job := next(waiting, None)) is not None:
                    child = _start(job, work)
                    children[child.pipe] = child
                    selector.register(child.pipe, selectors.EVENT_READ)
                if not children:
                    return
                for key, _ in selector.select():
                    child = children[key.fd]
                    if received := os.read(key.fd, 65536):
                        child.received += received
                        continue
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    del children[key.fd]
                    yield child.ended()
        finally:
            for child in children.values():
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                os.close(child.pipe)
            gc.unfreeze()


def allow(seconds: float) -> None:
    """Ends this process if it takes `seconds` of CPU time from now on, or many times as long by the clock."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * IDLE)


def _start(job: Job, work: Callable[[Job, Send], None]) -> _Child[Job]:
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: those of torch and NumPy are idle
        pid = os.fork()
    if pid:
        os.close(write)
        return _Child(job, pid, read)
    code = 1
    try:
        os.close(read)
        _settle()

        def send(**message: Any) -> None:
            line = json.dumps(message).encode() + b"\n"
            while line:
                line = line[os.write(write, line) :]

        try:
            work(job, send)
            code = 0
        except BaseException as error:
            send(**{_RAISED: f"{type(error).__name__}: {' '.join(str(error).split())}"})
    finally:
        os._exit(code)


def _settle() -> None:
    """A child's own signals, silence and bound on memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its children
    for timer in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(timer, signal.SIG_DFL)
    with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123 - its number is wanted
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        taken = int(statistics.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, most))
