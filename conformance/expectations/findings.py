"""Findings: failures that docs/findings.md explains. They stay red, and a table says which of them each one is.

An entry is one of expectations', with three fields more, all optional:

    [[finding]]
    match = "*-causal-*"
    features = ["short contexts"]   # features that a check has, all of them: conformance.features
    path = "*unified"               # globs on the path that a check took, or "any"
    backend = "any"                 # globs on the backend, where it is not the kernel's finding but its caller's
    ...
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from conformance.expectations.entries import ANY, Expectation, entries, expectation, texts
from conformance.features import BY_NAME, Feature
from conformance.targets import Target

NAME = "findings.toml"


@dataclass(frozen=True)
class Finding:
    """One explained way to fail: of checks of this id, these features and this path, in these versions."""

    failure: Expectation
    features: tuple[Feature, ...]
    path: tuple[str, ...]
    backend: tuple[str, ...]

    def concerns(self, backend: str, target: Target) -> bool:
        """Is it a finding in this backend, on this target?"""
        return self.failure.concerns(target) and _is_one_of(backend, self.backend)

    def explains(self, check_id: str, features: Iterable[Feature], path: str, status: str) -> bool:
        """Does such a failure look as this finding says, whatever the version and the arch?"""
        return (
            status == self.failure.status
            and self.failure.matches(check_id)
            and set(self.features) <= set(features)
            and _is_one_of(path, self.path)
        )


@cache
def committed() -> tuple[Finding, ...]:
    """The findings that come with the suite. Raises BadExpectations."""
    return tuple(entries(files("conformance").joinpath("expectations", NAME), NAME, "finding", _finding))


def _is_one_of(name: str, globs: Iterable[str]) -> bool:
    return any(glob == ANY or fnmatchcase(name, glob) for glob in globs)


def _finding(table: dict[str, Any], place: str) -> Finding:
    """The finding that a table is. Raises ValueError."""
    own = {"features": [], "path": ANY, "backend": ANY}
    own |= {name: value for name, value in table.items() if name in own}
    names = texts(own, "features") if own["features"] else ()
    if unknown := [name for name in names if name not in BY_NAME]:
        raise ValueError(f"no feature is called {unknown[0]!r}: conformance.features has them")
    failure = expectation({name: value for name, value in table.items() if name not in own}, place)
    return Finding(failure, tuple(BY_NAME[name] for name in names), texts(own, "path"), texts(own, "backend"))
