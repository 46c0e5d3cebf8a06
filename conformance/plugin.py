"""The pytest plugin that runs the suite: its options, its checks, and verdicts as the outcomes of tests."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conformance import asked, environment, expectations, manifest
from conformance.asked import SYSTEM
from conformance.bookkeeping import Bookkeeper, expect_failure
from conformance.case import BadCase
from conformance.check import Check, of_tier, shown_on, to_build
from conformance.expectations import Applied, BadExpectations
from conformance.failure import contradicted
from conformance.isolate import DEFAULT_MODE, MODES, TIME_LIMIT, TIME_LIMIT_ELSEWHERE, Isolation, is_risky
from conformance.judge import Verdict
from conformance.outcome import Outcome, of_check, of_verdict
from conformance.plan import Plan
from conformance.record import BadRecord, read, try_to_write, with_result
from conformance.shard import BadShard, Shard
from conformance.status import Status
from conformance.summary import counted
from conformance.system import NotReady, System
from conformance.targets import SPECS, Target

pytest_plugins = ["conformance.workers"]

CHECKS = pytest.StashKey[list[Check]]()
EXPECTED = pytest.StashKey[Applied]()
ENVIRONMENT_SENT = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that choose the system under test and the cases."""
    group = parser.getgroup("conformance", "conformance of paged attention")
    group.addoption("--backend", help="the system under test: aiter, torch, or package.module:function")
    group.addoption("--target", help=f"where it runs, or is built for: {', '.join(SPECS)}")
    group.addoption("--aiter", metavar="SOURCE", help="which AITER: a source tree, or a git repository and @REF")
    group.addoption(
        "--tier",
        default="smoke",
        help=f"which cases: {', '.join((*manifest.TIERS, *manifest.GROUPS))} (default: smoke)",
    )
    group.addoption(
        "--case",
        action="append",
        metavar="ID",
        help="run this case, or RELATION/ID, and no tier; may be repeated",
    )
    group.addoption("--shard", metavar="I/N", help="only the I-th of N parts of these, from 1, for several hosts")
    group.addoption(
        "--isolate",
        choices=MODES,
        help="which checks run in a child that may die (default: all on a GPU or an interpreter, else risky)",
    )
    group.addoption(
        "--time-limit",
        type=asked.positive(float),
        metavar="S",
        help="for an isolated check (default: 180 on a GPU, else 1800)",
    )
    group.addoption("--leave-out", type=Path, metavar="RECORD", help="run only what has no result in that record yet")
    group.addoption("--record", type=Path, metavar="FILE", help="write the results there, as JSON lines")
    group.addoption(
        "--expectations", action="append", metavar="FILE", default=[], help="more gaps that are known; may be repeated"
    )
    group.addoption("--no-expectations", action="store_true", help="leave out the list that comes with the suite")


def pytest_configure(config: pytest.Config) -> None:
    """Check what was asked for before anything is collected, so that a mistake is one sentence and not one a case."""
    if not asked.for_suite(config):
        return
    if (report := config.getoption("xmlpath", None)) and not hasattr(config, "workerinput"):
        _check_report(Path(report))
    chosen, tier = config.getoption("case"), str(config.getoption("tier"))
    try:
        checks = list(dict.fromkeys(map(Check.parse, chosen))) if chosen else of_tier(tier)
        system = asked.system(config)
        if not chosen:
            every = shown_on(system.target_kind, checks)
        else:  # what a target cannot show says so, where it is asked for by name
            every = to_build(checks, chosen=True) if system.only_builds else checks
        title = counted([check.id for check in every], "chosen ") if chosen else f"tier {tier}"
        shard = config.getoption("shard")
        left_out = with_result(read(held).cases) if (held := config.getoption("leave_out")) else frozenset()
        plan = Plan(title, every, None if shard is None else Shard.parse(str(shard)), left_out)
        config.stash[CHECKS] = plan.checks
        _expect(config, [check.id for check in every])
        if not hasattr(config, "workerinput"):
            bookkeeper = Bookkeeper(config.stash[SYSTEM], config.stash[EXPECTED], plan, config.getoption("record"))
            config.pluginmanager.register(bookkeeper, "conformance-bookkeeper")
    except (BadCase, BadShard, manifest.BadTier, BadRecord, BadExpectations, *NotReady) as e:
        raise pytest.UsageError(str(e)) from e


def _expect(config: pytest.Config, ids: list[str]) -> None:
    """Find which declared gap applies to which check; the command that runs one again names the same lists.

    `ids` are those of the whole plan: an entry may apply to checks of another shard alone.
    """
    system = config.stash[SYSTEM]
    files, alone = config.option.expectations, config.option.no_expectations
    entries = expectations.asked_for(system.backend.name, files, with_committed=not alone)
    if not hasattr(config, "workerinput"):
        expectations.refuse_idle(entries, ids)
    config.stash[EXPECTED] = expectations.applying(entries, system, ids)
    words = ["--no-expectations"] * alone + [word for file in files for word in ("--expectations", file)]
    config.stash[SYSTEM] = replace(system, options=(*system.options, *words))


def _check_report(path: Path) -> None:
    """Pytest would find at the end of a run that it cannot write its report, and lose the run's own end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # as pytest does
        try_to_write(path)
    except OSError as e:
        raise pytest.UsageError(f"cannot write --junitxml {path}: {e.strerror}") from e


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


class ExpectedGap(Exception):
    """A failure that was declared, and fails no run; the message says why it is there."""


@pytest.fixture(scope="session")
def started(pytestconfig: pytest.Config) -> Target | str:
    """The target that the system under test runs on, or the sentence that says why it does not."""
    try:
        return pytestconfig.stash[SYSTEM].start()
    except NotReady as e:
        return str(e)


@pytest.fixture(scope="session")
def environment_here(started: Target | str) -> dict[str, str]:
    """What this process runs in, described once: git is asked for it. Empty where nothing was started."""
    return {} if isinstance(started, str) else environment.describe(started)


@pytest.fixture(scope="session")
def isolation(pytestconfig: pytest.Config) -> Iterator[Isolation]:
    """The child process for what might take this one along."""
    system, chosen = pytestconfig.stash[SYSTEM], pytestconfig.getoption("time_limit")
    child = Isolation(system, chosen or TIME_LIMIT.get(system.target_kind, TIME_LIMIT_ELSEWHERE))
    yield child
    child.close()


@pytest.fixture
def conform(request: pytest.FixtureRequest, isolation: Isolation) -> Callable[[Check], None]:
    """Runs a check and makes its verdict the outcome of the test."""
    config = request.config
    isolate = config.getoption("isolate") or DEFAULT_MODE.get(config.stash[SYSTEM].target_kind, "risky")

    def conform(check: Check) -> None:
        if isolate == "all" or (isolate == "risky" and is_risky(check)):
            outcome, here = isolation.run(check), isolation.environment
        else:
            outcome = _in_this_process(check, config.stash[SYSTEM], request.getfixturevalue("started"))
            here = request.getfixturevalue("environment_here")
        expected, status = config.stash[EXPECTED].of(check.id), outcome.status
        request.node.user_properties.extend(outcome.result.items())
        if expected:
            request.node.user_properties.append(("expected", expected.recorded))
        if here and not config.stash.get(ENVIRONMENT_SENT, False):
            config.stash[ENVIRONMENT_SENT] = True
            request.node.user_properties.append(("environment", here))
        if expected and status is expected.status:
            raise ExpectedGap(expected.because)
        if expected:
            raise Nonconformant(contradicted(outcome.text, expected, status))
        if status is Status.UNSUPPORTED:
            raise Declined(str(outcome.result["reason"]))
        if not status.conformant:
            raise Nonconformant(outcome.text)

    return conform


def _in_this_process(check: Check, system: System, started: Target | str) -> Outcome:
    if isinstance(started, str):
        return of_verdict(check, Verdict(Status.NOT_RUN, started), system, system.target_spec)
    return of_check(check, system, started)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A verdict's own text stands for the traceback; a declined case is no failure, and an expected gap neither."""
    report = yield
    raised = call.excinfo.value if call.excinfo else None
    if isinstance(raised, Nonconformant):
        report.longrepr = str(raised)
    elif isinstance(raised, Declined):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, str(raised))
    elif isinstance(raised, ExpectedGap):
        expect_failure(report, str(raised))
    return report
