"""What the controlling process of a run keeps: which checks were planned, what came of them, and the record."""

import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from conformance.check import Check
from conformance.environment import of_gpus
from conformance.expectations import Applied
from conformance.failure import contradicted
from conformance.judge import Verdict
from conformance.outcome import of_verdict
from conformance.plan import Plan
from conformance.record import Writer, check_id, fails
from conformance.status import Status
from conformance.summary import footer_lines, header_lines, progress_word, status_word
from conformance.system import System

SUITE = re.compile(r".*::test_(?:conforms|holds)\[(.*)\]", re.DOTALL)
"""The node id of a conformance test, with the check's id, from wherever the suite was collected."""

NOTHING_RAN = pytest.ExitCode.NO_TESTS_COLLECTED


class Bookkeeper:
    """Follows the reports of a run, of its own process or of its workers, and closes the books at the end."""

    def __init__(self, system: System, expected: Applied, plan: Plan, record: Path | None) -> None:
        self.system, self.expected, self.plan = system, expected, plan
        self.writer = Writer(record) if record else None
        self.started = monotonic()
        self.planned: list[str] = []  # ids of checks
        self.results: dict[str, dict[str, Any]] = {}  # by check id
        self.has_header = False
        self.closed = False

    # -- what is planned --------------------------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not session.config.option.collectonly:
            self._plan(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._plan(ids)

    def _plan(self, nodeids: Any) -> None:
        self.planned = [_check_id(nodeid) for nodeid in nodeids if _of_suite(nodeid)]

    # -- what came of it --------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)  # before pytest counts it as a failure, and the terminal asks for a word
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        if _of_suite(report.nodeid):
            self._follow(report)
        yield

    def _follow(self, report: pytest.TestReport) -> None:
        properties: dict[str, Any] = dict(report.user_properties)
        if report.when == "call" and "status" in properties:
            environment = properties.pop("environment", None)
            self._take(properties, environment)
        elif report.failed:  # the worker died over it ("???" is xdist's word for that), or a fixture failed
            status = Status.CRASH if report.when == "???" else Status.ERROR
            reason = str(report.longrepr).strip().splitlines()[-1]
            check = Check.parse(_check_id(report.nodeid))
            # What a fixture raises is no answer of the backend's, and none that a list could expect.
            expected = self.expected.of(check.id) if status is Status.CRASH else None
            outcome = of_verdict(check, Verdict(status, reason), self.system, self.system.target_spec)
            report.longrepr, result = outcome.text, dict(outcome.result)
            if expected:
                result["expected"] = expected.recorded
                if expected.status is status:
                    expect_failure(report, expected.because)
                else:
                    report.longrepr = contradicted(outcome.text, expected, status)
            self._take(result, None)

    def _take(self, result: dict[str, Any], environment: dict[str, str] | None) -> None:
        self.results[check_id(result)] = result
        if self.writer:
            if not self.has_header:
                self.has_header = True
                run = {
                    "plan": self.plan.recorded(),
                    "backend": self.system.backend.name,
                    "options": self.system.options,
                }
                if source := self.system.source:
                    run["aiter"] = {"version": source.version, "commit": source.commit, "origin": source.origin}
                self.writer.header(len(self.planned), run, self._whole(environment))
            self.writer.case(**result)

    def _whole(self, environment: dict[str, str] | None) -> dict[str, str]:
        """With all GPUs of the run; the process that ran a check saw its own alone."""
        gpus = {"GPUs": of_gpus()} if self.system.target_kind == "gpu" else {}
        return (environment or {}) | gpus

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.closed = True
        if not self.planned:
            return
        if self.writer and self.complete:
            self.writer.footer(self.counts, monotonic() - self.started)
        if self.writer:
            self.writer.close()
        whole = self.complete and self.recorded
        if not whole and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        elif not self.anything_ran:
            session.exitstatus = NOTHING_RAN

    @property
    def counts(self) -> Counter[str]:
        counted = Counter(result["status"] for result in self.results.values())
        counted[Status.NOT_RUN] += len(self.planned) - len(self.results)
        return +counted

    @property
    def complete(self) -> bool:
        return set(self.planned) == set(self.results)

    @property
    def recorded(self) -> bool:
        """Does the record, where one was asked for, hold every result?"""
        return self.writer is None or not self.writer.failed

    @property
    def deselected(self) -> int:
        """How many of the checks that were asked for pytest was told to leave out."""
        return len(self.plan.checks) - len(self.planned)

    @property
    def anything_ran(self) -> bool:
        return any(Status(status).ran for status in self.counts)

    # -- what the terminal shows ------------------------------------------------------------------------------------

    def pytest_report_header(self) -> list[str]:
        return [*header_lines(self.system, self.plan.described), *self.expected.notes]

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        if not _of_suite(report.nodeid) or report.when not in ("call", "???"):
            return None
        result = self.results[_check_id(report.nodeid)]
        status = Status(result["status"])
        if fails(result):
            category, letter = "failed", "F" if status.conformant else status[0]
        else:
            shown = {Status.PASS: ("passed", "."), Status.UNSUPPORTED: ("unsupported", "u")}
            category, letter = shown.get(status, ("expected", "x"))
        if self.closed:
            return category, letter, status_word(result)
        return category, letter, progress_word(result, len(self.results), len(self.planned), monotonic() - self.started)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.planned:
            terminalreporter.section("conformance")
            for line in footer_lines(self):
                terminalreporter.write_line(line)
        elif not terminalreporter.config.option.collectonly:
            terminalreporter.write_line("NOTHING RAN: no case was selected.")


def expect_failure(report: pytest.TestReport, because: str) -> None:
    """Makes the report of a failure one of an expected failure, as pytest and JUnit know it."""
    report.outcome = "skipped"
    report.longrepr = report.wasxfail = because


def _of_suite(nodeid: str) -> bool:
    return SUITE.fullmatch(nodeid) is not None


def _check_id(nodeid: str) -> str:
    return SUITE.sub(r"\1", nodeid)
