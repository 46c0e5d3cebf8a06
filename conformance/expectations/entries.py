"""Lists of expectations: TOML files of [[expectation]] tables, read strictly.

    [[expectation]]
    match = ["*decode-causal-*-p48-kv*1024*", "!*-w32:*"]   # globs on the ids of checks; "!" takes some out again
    status = "ERROR"                                         # the one way to fail that is expected
    since = "0.1.16"                                         # AITER versions, since <= version < until;
    until = "open"                                           # "0": from the beginning, "open": not closed yet
    arch = "gfx9*"                                           # globs on the arch or the target's name; or "any"
    reason = "Pages of 48 keys do not divide the split kernel's tile"
    issue = "docs/findings.md#limits-that-are-not-defects"   # or a URL

All fields are mandatory.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from packaging.version import InvalidVersion, Version

from conformance.status import Status
from conformance.targets import Target

BEGINNING = Version("0")
OPEN = "open"
ANY = "any"

Entry = TypeVar("Entry")

FIELDS = ("match", "status", "since", "until", "arch", "reason", "issue")
LISTS = ("match", "arch")
"""Fields that hold one text or several."""

EXPECTABLE = tuple(status for status in Status if not status.conformant and status is not Status.NOT_RUN)
_ISSUE = re.compile(r"https?://\S+|docs/\S+\.md(#\S+)?")


class BadExpectations(Exception):
    """A list of expectations, or an entry of one, that cannot be used; one sentence that names the entry."""


@dataclass(frozen=True)
class Expectation:
    """One declared gap: these checks fail so, in these versions of AITER, on these archs."""

    match: tuple[str, ...]
    status: Status
    since: Version
    until: Version | None
    """None while the gap is open."""
    arch: tuple[str, ...]
    reason: str
    issue: str
    place: str
    """`aiter.toml, entry 2`."""

    def matches(self, check_id: str) -> bool:
        """Is a check of this id meant, whatever the version and the arch?"""
        return bool(self._wanted.match(check_id)) and not (self._unwanted and self._unwanted.match(check_id))

    def concerns(self, target: Target) -> bool:
        """Is the gap one of this target?"""
        return any(glob == ANY or fnmatchcase(name, glob) for glob in self.arch for name in (target.arch, target.name))

    @property
    def recorded(self) -> dict[str, str]:
        """What a record says of it, beside the true status of a check."""
        return {"status": str(self.status), "reason": self.reason, "issue": self.issue, "entry": self.place}

    @property
    def because(self) -> str:
        """Why a check fails so, and where to read on."""
        return f"{self.reason} ({self.issue})"

    def contradicted_by(self, status: Status) -> str:
        """What it means that a check has another status than the entry says, in a sentence."""
        if not status.conformant:
            return f"{self.place}, expects {self.status}, not {status}: {self.reason}"
        how = "closed this gap" if status is Status.PASS else "declines this now, instead of failing"
        return f"AITER {how}: delete the entry, or narrow it to what still fails ({self.place}: {self.reason})"

    def idle_globs(self, check_ids: Iterable[str]) -> list[str]:
        """The globs that do nothing on these checks: wanted ones that match none, unwanted ones that take none out."""
        meant = [check for check in check_ids if self._wanted.match(check)]
        return [glob for glob in self.match if not any(map(re.compile(translate(glob.removeprefix("!"))).match, meant))]

    @cached_property
    def _wanted(self) -> re.Pattern[str]:
        return _either([glob for glob in self.match if not glob.startswith("!")])

    @cached_property
    def _unwanted(self) -> re.Pattern[str] | None:
        globs = [glob[1:] for glob in self.match if glob.startswith("!")]
        return _either(globs) if globs else None


def _either(globs: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, globs)))


def committed(backend: str) -> list[Expectation]:
    """The list that comes with the suite for a backend of that name; empty where there is none."""
    file = files("conformance").joinpath("expectations", f"{backend}.toml")
    return read(file, file.name) if ":" not in backend and file.is_file() else []


def read(file: Traversable, name: str) -> list[Expectation]:
    """The entries of a list, which is called `name` in every sentence about it. Raises BadExpectations."""
    return entries(file, name, "expectation", expectation)


def entries(file: Traversable, name: str, word: str, of_table: Callable[[dict[str, Any], str], Entry]) -> list[Entry]:
    """What `of_table` makes of each [[word]] table of a file and its place; BadExpectations where it raises ValueError.

    Raises it too for a file that cannot be read, or that holds anything else.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadExpectations(f"cannot read {word}s from {name}: {error}") from error
    tables = content.get(word, [])
    if set(content) - {word} or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise BadExpectations(f"{name} holds [[{word}]] tables and nothing else")
    found = []
    for number, table in enumerate(tables, 1):
        place = f"{name}, entry {number}"
        try:
            found.append(of_table(table, place))
        except ValueError as error:
            raise BadExpectations(f"{place}: {error}") from error
    return found


def expectation(table: dict[str, Any], place: str) -> Expectation:
    """The entry that a table is. Raises ValueError."""
    if missing := [field for field in FIELDS if field not in table]:
        raise ValueError(f"lacks {', '.join(missing)}")
    if unknown := [field for field in table if field not in FIELDS]:
        raise ValueError(f"no field is called {unknown[0]!r}: there are {', '.join(FIELDS)}")
    match, arch = texts(table, "match"), texts(table, "arch")
    if all(glob.startswith("!") for glob in match):
        raise ValueError("match takes checks out, and has none in")
    status, reason, issue = (_text(table, field) for field in ("status", "reason", "issue"))
    if status not in EXPECTABLE:
        raise ValueError(f"status {status!r} cannot be expected: choose one of {', '.join(EXPECTABLE)}")
    if not _ISSUE.fullmatch(issue):
        raise ValueError(f"issue {issue!r} is neither a URL nor a place like docs/findings.md#limits")
    since = _version("since", _text(table, "since"), "0")
    until = None if table["until"] == OPEN else _version("until", _text(table, "until"), OPEN)
    if until is not None and until <= since:
        raise ValueError(f"no version lies in since <= version < until: until {until} is not later than since {since}")
    return Expectation(match, Status(status), since, until, arch, reason, issue, place)


def _text(table: dict[str, Any], field: str) -> str:
    value = table[field]
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a text, not {value!r}")
    if not value.strip("! \n"):
        raise ValueError(f"{field} is empty")
    return value


def texts(table: dict[str, Any], field: str) -> tuple[str, ...]:
    """One text of a table, or a list of them. Raises ValueError for anything else."""
    some = table[field] if isinstance(table[field], list) else [table[field]]
    if not some:
        raise ValueError(f"{field} is empty")
    return tuple(_text({field: value}, field) for value in some)


def _version(field: str, text: str, word: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion as error:
        raise ValueError(f"{field} {text!r} is neither a version nor {word!r}") from error
