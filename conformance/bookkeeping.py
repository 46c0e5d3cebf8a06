"""What the controlling process of a run keeps: which checks were planned, what came of them, and the record."""

from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from conformance.check import Check
from conformance.environment import of_gpus
from conformance.failure import text
from conformance.judge import Verdict
from conformance.plan import Plan
from conformance.record import Writer, check_id, digest
from conformance.status import Status
from conformance.summary import footer_lines, header_lines, progress_word
from conformance.system import System

SUITE = ("::test_conforms[", "::test_holds[")
"""What the node id of a conformance test holds one of, from wherever the suite was collected."""

NOTHING_RAN = pytest.ExitCode.NO_TESTS_COLLECTED


class Bookkeeper:
    """Follows the reports of a run, of its own process or of its workers, and closes the books at the end."""

    def __init__(self, system: System, plan: Plan, record: Path | None) -> None:
        self.system, self.plan = system, plan
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

    @pytest.hookimpl(tryfirst=True)  # before the terminal asks for the word that shows it
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not _of_suite(report.nodeid):
            return
        properties: dict[str, Any] = dict(report.user_properties)
        if report.when == "call" and "status" in properties:
            environment = properties.pop("environment", None)
            self._take(properties, environment)
        elif report.failed:  # the worker died over it ("???" is xdist's word for that), or a fixture failed
            status = Status.CRASH if report.when == "???" else Status.ERROR
            reason = str(report.longrepr).strip().splitlines()[-1]
            check = Check.parse(_check_id(report.nodeid))
            verdict, repro = Verdict(status, reason), self.system.repro(check.id)
            report.longrepr = text(
                check.case, verdict, self.system.name, self.system.target_spec, repro, check.relation
            )
            relation = {"relation": check.relation.name} if check.relation else {}
            key = {"case": check.case.id, **relation, "digest": digest(check)}
            self._take({**key, "status": str(status), "reason": reason}, None)

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
        if not self.complete and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
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
    def anything_ran(self) -> bool:
        return bool(set(self.counts) - {Status.NOT_RUN, Status.UNSUPPORTED})

    # -- what the terminal shows ------------------------------------------------------------------------------------

    def pytest_report_header(self) -> list[str]:
        return header_lines(self.system, self.plan.described)

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        if not _of_suite(report.nodeid) or report.when not in ("call", "???"):
            return None
        result = self.results[_check_id(report.nodeid)]
        status = Status(result["status"])
        letter = {Status.PASS: ".", Status.UNSUPPORTED: "u"}.get(status, status[0])
        category = {Status.PASS: "passed", Status.UNSUPPORTED: "unsupported"}.get(status, "failed")
        if self.closed:
            return category, letter, str(status)
        return category, letter, progress_word(result, len(self.results), len(self.planned), monotonic() - self.started)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.planned:
            terminalreporter.section("conformance")
            for line in footer_lines(self):
                terminalreporter.write_line(line)
        elif not terminalreporter.config.option.collectonly:
            terminalreporter.write_line("NOTHING RAN: no case was selected.")


def _of_suite(nodeid: str) -> bool:
    return any(test in nodeid for test in SUITE)


def _check_id(nodeid: str) -> str:
    return nodeid.partition("[")[2].removesuffix("]")
