"""The pytest plugin that runs the suite: its options, its checks, and verdicts as the outcomes of tests."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from conformance import asked, environment, manifest
from conformance.asked import SYSTEM
from conformance.bookkeeping import Bookkeeper
from conformance.case import BadCase
from conformance.check import Check, of_tier
from conformance.execute import run
from conformance.failure import text
from conformance.judge import Verdict
from conformance.record import BadRecord, digest
from conformance.relate import relate
from conformance.status import Status
from conformance.summary import counted
from conformance.system import NotReady
from conformance.targets import Target

pytest_plugins = ["conformance.workers"]

CHECKS = pytest.StashKey[list[Check]]()
LARGEST_FIGURE = 1e300
"""Stands for infinity, which JSON does not know."""

ENVIRONMENT_SENT = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that choose the system under test and the cases."""
    group = parser.getgroup("conformance", "conformance of paged attention")
    group.addoption("--backend", help="the system under test: aiter, torch, or package.module:function")
    group.addoption("--target", help="where it runs: gpu, interpreter[:gfx942|gfx950] or cpu")
    group.addoption("--aiter", metavar="SOURCE", help="which AITER: a source tree, or a git repository and @REF")
    group.addoption("--tier", default="smoke", help=f"which cases: {', '.join(manifest.TIERS)} (default: smoke)")
    group.addoption(
        "--case",
        action="append",
        metavar="ID",
        help="run this case, or RELATION/ID, and no tier; may be repeated",
    )
    group.addoption("--shard", metavar="I/N", help="only the I-th of N parts of these, from 1, for several hosts")
    group.addoption("--record", type=Path, metavar="FILE", help="write the results there, as JSON lines")


def pytest_configure(config: pytest.Config) -> None:
    """Check what was asked for before anything is collected, so that a mistake is one sentence and not one a case."""
    if not asked.for_suite(config):
        return
    chosen, tier = config.getoption("case"), str(config.getoption("tier"))
    try:
        checks = list(dict.fromkeys(map(Check.parse, chosen))) if chosen else of_tier(tier)
        config.stash[CHECKS] = checks
        system = asked.system(config)
        if not hasattr(config, "workerinput"):
            title = counted([check.id for check in checks], "chosen ") if chosen else f"tier {tier}"
            bookkeeper = Bookkeeper(system, title, config.getoption("record"))
            config.pluginmanager.register(bookkeeper, "conformance-bookkeeper")
    except (BadCase, manifest.BadTier, BadRecord, *NotReady) as e:
        raise pytest.UsageError(str(e)) from e


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a check."""
    if "conform" in metafunc.fixturenames:
        if CHECKS not in metafunc.config.stash:
            raise pytest.UsageError("name the suite itself, conformance/suite or --pyargs conformance.suite, to run it")
        name = next(name for name in PARAMETERS.values() if name in metafunc.fixturenames)
        checks = _of_kind(metafunc.config, name)
        metafunc.parametrize(name, checks, ids=[check.id for check in checks])


PARAMETERS = {"test_conforms": "case", "test_holds": "related"}
"""The suite's tests, and the parameter of each."""


def _of_kind(config: pytest.Config, name: str) -> list[Check]:
    return [check for check in config.stash[CHECKS] if bool(check.relation) == (name == "related")]


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str) -> list[pytest.Item] | None:
    """No test at all where none was chosen: pytest would make one of no parameter, and skip it."""
    if name in PARAMETERS and CHECKS in collector.config.stash and not _of_kind(collector.config, PARAMETERS[name]):
        return []
    return None


class Nonconformant(Exception):
    """A verdict that fails a run; the message is the whole report."""


class Declined(Exception):
    """A case that the backend does not serve, and says so."""


@pytest.fixture(scope="session")
def started(pytestconfig: pytest.Config) -> Target | str:
    """The target that the system under test runs on, or the sentence that says why it does not."""
    try:
        return pytestconfig.stash[SYSTEM].start()
    except NotReady as e:
        return str(e)


@pytest.fixture
def conform(request: pytest.FixtureRequest, started: Target | str) -> Callable[[Check], None]:
    """Runs a check and makes its verdict the outcome of the test."""

    def conform(check: Check) -> None:
        system = request.config.stash[SYSTEM]
        if isinstance(started, str):
            request.node.user_properties += _properties(check, Verdict(Status.NOT_RUN, started))
            raise Nonconformant(f"{Status.NOT_RUN}  {started}")
        case, relation = check.case, check.relation
        if relation is None:
            verdict = run(case, system.backend, started)
        else:
            verdict = relate(relation, case, system.backend, started)
        request.node.user_properties += _properties(check, verdict)
        if not request.config.stash.get(ENVIRONMENT_SENT, False):
            request.config.stash[ENVIRONMENT_SENT] = True
            request.node.user_properties.append(("environment", environment.describe(started)))
        if verdict.status is Status.UNSUPPORTED:
            raise Declined(verdict.reason)
        if not verdict.status.conformant:
            raise Nonconformant(text(case, verdict, system.name, started.name, system.repro(check.id), relation))

    return conform


def _properties(check: Check, verdict: Verdict) -> Iterator[tuple[str, object]]:
    """The verdict as pytest carries it from a worker to the controller, and into a JUnit file."""
    yield "case", check.case.id
    if check.relation:
        yield "relation", check.relation.name
    yield "digest", digest(check)
    yield "status", str(verdict.status)
    for name in ("reason", "evidence", "path"):
        if text := getattr(verdict, name):
            yield name, text
    figures = asdict(verdict.figures) if verdict.figures else {}
    for name, value in (figures | {"seconds": verdict.seconds}).items():
        if value is not None:
            yield name, min(float(f"{value:.4g}"), LARGEST_FIGURE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A verdict's own text stands for the traceback; a declined case is no failure."""
    report = yield
    raised = call.excinfo.value if call.excinfo else None
    if isinstance(raised, Nonconformant):
        report.longrepr = str(raised)
    elif isinstance(raised, Declined):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, str(raised))
    return report
