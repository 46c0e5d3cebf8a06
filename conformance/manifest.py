"""Tiers: committed lists of case ids, one a line. How they are composed is in `conformance.tiers`."""

from collections.abc import Callable
from importlib.resources import files
from typing import TypeVar

from conformance.case import BadCase, Case

Entry = TypeVar("Entry")

TIERS = ("smoke", "core", "full")
"""Those that have a manifest, each with all cases of the one before."""

GROUPS = ("masks",)
"""Lists of cases that answer one question, by themselves; `smoke` has them all."""

FUZZ = "fuzz"
"""The tier without a manifest: its cases are drawn while it runs, by `conformance.fuzz`."""


class BadTier(Exception):
    """A tier that does not exist, or a line in its manifest that is no case."""


def cases(tier: str) -> list[Case]:
    """The cases of a tier or a group, in the order of its manifest. Raises BadTier."""
    if tier == FUZZ:
        raise BadTier(f"tier {FUZZ} has no list: its cases are drawn by python -m conformance {FUZZ}")
    if tier not in (*TIERS, *GROUPS):
        raise BadTier(f"unknown tier {tier!r}: there is {', '.join((*TIERS, *GROUPS, FUZZ))}")
    return entries(f"{tier}.txt", Case.parse)


def entries(name: str, parse: Callable[[str], Entry]) -> list[Entry]:
    """What `parse` makes of each line of a manifest, comments aside. Raises BadTier where it raises BadCase."""
    text = files("conformance").joinpath("manifests", name).read_text()
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if word := line.split("#")[0].strip():
            try:
                found.append(parse(word))
            except BadCase as e:
                raise BadTier(f"{name}, line {number}: {e}") from e
    return found
