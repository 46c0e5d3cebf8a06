"""The results once, as small as JSON makes them without a compression: what the page's script reads.

A check is its number in `checks`. Of each version `outcome` has, by check, a number in `outcomes`, which are
[state, status, note or 0, path, reason]; reasons of failures are not among them, since the page has their text.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from conformance.case import Case
from conformance.check import EVERY_RELATION, Check
from conformance.compare import Change
from conformance.matrix import State
from conformance.matrix.shown import SIGNS
from conformance.report.changes import Pair
from conformance.report.margins import LIMITS
from conformance.report.page import Page
from conformance.report.sides import NO_ANSWER, PATH
from conformance.report.versions import FAILING, Tested
from conformance.summary import FIGURES

COUNTED = (Change.NEW, Change.MISSING, Change.EDITED)
"""Changes of which only the number is told: of records of two tiers there are thousands, which say nothing."""


NUMBERS = {"window": "keys in the window", "softcap": "cap of scores", "max_keys": "bound that is passed",
           "scale": "scale of scores", "q_dtype": "stored dtype of q", "per_head_descales": "descales of each head",
           "decode_threshold": "most queries of a decode", "chunk": "context keys at a time"}  # fmt: skip
"""Fields of a case whose value a side does not tell: it is shown where it is not the default."""

DEFAULTS = {field.name: field.default for field in fields(Case) if field.name in NUMBERS}


def table(page: Page) -> str:
    """The JSON, safe within a script element."""
    outcomes: dict[tuple[Any, ...], int] = {}
    pairs: dict[tuple[str, str], int] = {}
    content = {
        "states": [{"name": state, "sign": SIGNS[state], "fails": state in FAILING} for state in State],
        "checks": page.checks,
        "path": PATH,
        "noAnswer": NO_ANSWER,
        "sides": [{"name": side.name, "levels": side.levels, "of": side.of} for side in page.sides],
        "more": {
            at: [pairs.setdefault(one, len(pairs)) for one in more]
            for at, check in enumerate(page.checks)
            if (more := _more(Check.parse(check)))
        },
        "relations": {name: f"{one.says}: must be {one.demand}" for name, one in EVERY_RELATION.items()},
        "features": [
            {"name": row.feature.name, "meaning": row.feature.meaning, "checks": _bits(row.checks, len(page.checks))}
            for row in page.rows
        ],
        "notes": [f"{one.note.reason}" + (f" ({one.note.issue})" if one.note.issue else "") for one in page.notes],
        "figures": list(FIGURES.values()),
        "versions": [_version(page, version, outcomes) for version in page.versions],
        "newest": page.newest,
        "failures": {failure.check: at for at, failure in enumerate(page.failures)},
        "pairs": [_pair(pair, {name: at for at, name in enumerate(page.checks)}) for pair in page.pairs],
    }
    content |= {"outcomes": list(outcomes), "moreOf": list(pairs)}
    written = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _more(check: Check) -> list[tuple[str, str]]:
    """What of a case is not its default, and is told by no side."""
    values = {name: getattr(check.case, name) for name in NUMBERS}
    return [(NUMBERS[name], _said(value)) for name, value in values.items() if value != DEFAULTS[name]]


def _said(value: object) -> str:
    if isinstance(value, tuple):
        left, right = ("all" if side < 0 else side for side in value)
        return f"{left} to the left, {right} to the right"
    return "yes" if value is True else str(value)


def _version(page: Page, version: Tested, outcomes: dict[tuple[Any, ...], int]) -> dict[str, Any]:
    numbers, states = page.numbers, list(State)
    came = [version.came[check] for check in page.checks]
    results = [version.column.results.get(check, {}) for check in page.checks]
    keys = [
        (states.index(one.state), one.word, numbers[one.note] if one.note else 0, result.get("path", ""),
         "" if one.state in FAILING else one.reason)
        for one, result in zip(came, results, strict=True)
    ]  # fmt: skip
    return {
        "name": version.name,
        "run": version.command,
        "outcome": [outcomes.setdefault(key, len(outcomes)) for key in keys],
        "figures": [_rounded(results, figure) for figure in FIGURES],
    }


def _rounded(results: Sequence[Mapping[str, Any]], figure: str) -> list[float | int]:
    """Three digits of what is compared, two of the others; 0 where there is none, which no figure of an answer is."""
    digits = 3 if figure in LIMITS else 2
    return [_short(result.get(figure, 0), digits) for result in results]


def _short(value: float, digits: int) -> float | int:
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _bits(some: Iterable[int], count: int) -> str:
    """Which of `count` checks: a bit each, the lowest of a byte first."""
    field = bytearray((count + 7) // 8)
    for at in some:
        field[at // 8] |= 1 << at % 8
    return b64encode(field).decode()


def _pair(pair: Pair, number: Mapping[str, int]) -> dict[str, Any]:
    some = pair.found.by_change
    return {
        "old": pair.old,
        "new": pair.new,
        "verdict": pair.found.verdict,
        "changes": {
            change: [number[one.check] for one in changed] for change, changed in some.items() if change not in COUNTED
        },
        "counted": {change: len(some[change]) for change in COUNTED if change in some},
    }
