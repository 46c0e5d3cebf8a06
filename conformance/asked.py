"""What a command or a run of pytest was asked for: a system, the suite or other tests; and the type of its numbers."""

import argparse
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from conformance.system import System, choose

SYSTEM = pytest.StashKey[System]()


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """The type of an option, for argparse and pytest: a finite number above 0, an `int` or a `float`."""

    def number(word: str) -> float:
        if not 0 < (value := kind(word)) < inf:
            raise ValueError
        return value

    number.__name__ = "positive number"  # how argparse calls it
    return number


def add_system(
    command: argparse.ArgumentParser,
    backend: str = "aiter, torch, or package.module:function",
    target: str = "gpu, interpreter[:gfx942|gfx950], compile:gfx942, compile:gfx950 or cpu",
) -> None:
    """The options that choose a system; `backend` and `target` say which ones the command takes."""
    command.add_argument("--backend", help=backend)
    command.add_argument("--target", help=target)
    command.add_argument("--aiter", metavar="SOURCE", help="a source tree, or a git repository and @REF")


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
