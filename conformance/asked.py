"""What a run of pytest was asked for: the suite or other tests, and on which system."""

from pathlib import Path

import pytest

from conformance.system import System, choose

SYSTEM = pytest.StashKey[System]()


def for_suite(config: pytest.Config) -> bool:
    """Will the suite be collected? Other tests of the same checkout must not depend on AITER or on a manifest."""
    suite = Path(__file__).parent / "suite"
    arguments = [argument.partition("::")[0] for argument in config.args]
    folders = {suite, *suite.parents}
    return any(argument == "conformance.suite" or Path(argument).resolve() in folders or
               suite in Path(argument).resolve().parents for argument in arguments)  # fmt: skip


def system(config: pytest.Config) -> System:
    """The system under test, chosen when it is first asked for. Raises one of `conformance.system.NotReady`."""
    if SYSTEM not in config.stash:
        config.stash[SYSTEM] = choose(*(config.getoption(name) for name in ("backend", "target", "aiter")))
    return config.stash[SYSTEM]
