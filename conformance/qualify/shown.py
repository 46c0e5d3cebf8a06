"""Tables of versions by features as a person reads them, in a terminal or in Markdown, and as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from conformance.matrix.cells import Cell, State
from conformance.matrix.shown import SIGNS, markdown_row
from conformance.qualify.defects import Defect
from conformance.qualify.table import Row, Table, Tried, word

LEGEND = (
    "A cell is passed/run/of all checks that have the feature, then the worst status among them.",
    "  +  all passed                          -  some were refused in words, and the rest passed",
    "  ?  some were not run                   ~  some fail as a declared gap expects",
    "  x  some fail, by a known finding       !! some fail, and nothing explains it",
    "A row works, but for what docs/findings.md lays to other features of the checks that fail.",
)

CLAIM = "computed from these"
"""The heading of the spans."""

WIDTH = 160
"""Characters of a line where no terminal says how many it has."""


def as_text(tables: Sequence[Table]) -> Iterator[str]:
    """A table after the other, each with its versions first; wide ones in blocks of versions."""
    for table in tables:
        yield table.setting.described
        yield ""
        yield from _aligned([["  version", "commit", "passed/run/all", ""], *map(_tried, table.versions)])
        yield ""
        width = shutil.get_terminal_size((WIDTH, 0)).columns
        columns = [[version.name, *(_cell(row.cells[at]) for row in table.rows)]
                   for at, version in enumerate(table.versions)]  # fmt: skip
        columns.append([CLAIM, *(row.claim for row in table.rows)])
        names = ["", *(row.name for row in table.rows)]
        for block in _blocks(columns, width - max(map(len, names))):
            yield from _aligned([list(line) for line in zip(names, *block, strict=True)])
            yield ""
        for defect in table.defects:
            yield f"{_kind(defect)}, {_seen(defect, table)}: {defect.reason}"
            yield f"    {defect.check}   {defect.issue}"
        yield ""
    yield from LEGEND
    yield ""
    yield verdict(tables)


def as_markdown(tables: Sequence[Table]) -> Iterator[str]:
    """The verdict first, for a pull request."""
    yield f"**{verdict(tables)}**"
    for table in tables:
        yield from ("", f"### {table.setting.described}", "")
        yield markdown_row(["version", "commit", "passed/run/all", ""])
        yield markdown_row(["---"] * 4)
        yield from map(markdown_row, map(_tried, table.versions))
        yield ""
        yield markdown_row(["feature", *(version.name for version in table.versions), CLAIM])
        yield markdown_row(["---"] * (2 + len(table.versions)))
        for row in table.rows:
            yield markdown_row([row.name, *map(_cell, row.cells), row.claim])
        if table.defects:
            yield ""
            yield markdown_row(["seen in", "checks, at most", "as", "what", "for instance"])
            yield markdown_row(["---"] * 5)
            yield from (markdown_row(_defect(defect, table)) for defect in table.defects)
    yield from ("", "```", *LEGEND, "```")


def as_json(tables: Sequence[Table]) -> Iterator[str]:
    """Everything, in one object."""
    yield json.dumps({"verdict": verdict(tables), "tables": [_table(table) for table in tables]}, indent=1)


FORMATS: dict[str, Callable[[Sequence[Table]], Iterator[str]]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
}


def verdict(tables: Sequence[Table]) -> str:
    """`CONFORMANT: 0.1.18. NOT CONFORMANT: 0.1.15, 0.1.16. NOT RUN: 0.1.9.`"""
    found: dict[str, list[str]] = {"CONFORMANT": [], "NOT CONFORMANT": [], "INCOMPLETE": [], "NOT RUN": []}
    several = len(tables) > 1
    for table in tables:
        for version in table.versions:
            where = f" ({table.setting.described})" if several else ""
            found[_stands(version)].append(f"{version.name}{where}")
    return " ".join(f"{how}: {', '.join(some)}." for how, some in found.items() if some) or "NOTHING RAN."


def _stands(version: Tried) -> str:
    if version.cause or not version.anything_ran:
        return "NOT RUN"
    if not version.complete:
        return "INCOMPLETE"
    return "NOT CONFORMANT" if version.fails else "CONFORMANT"


def _tried(version: Tried) -> list[str]:
    counts = version.counts
    ran = counts.total() - counts[State.NOT_RUN] - counts[State.REFUSED]
    others = [f"{counts[state]} {state}" for state in State if state is not State.PASS and counts[state]]
    said = version.cause or ", ".join(others)
    cut = "" if version.complete or version.cause else "; INCOMPLETE"
    return [f"  {version.name}", version.commit[:7], f"{counts[State.PASS]}/{ran}/{counts.total()}", said + cut]


def _cell(cell: Cell) -> str:
    """`x  9/12/12 MISMATCH`."""
    if cell.state is None:
        return ""
    return f"{SIGNS[cell.state]:2} {cell.counts[State.PASS]}/{cell.ran}/{cell.total} {word(cell)}"


def _defect(defect: Defect, table: Table) -> list[str]:
    how = f"{_kind(defect)}: {', '.join(defect.statuses)}"
    most = str(max(count or 0 for count in defect.counts))
    return [_seen(defect, table), most, how, f"{defect.reason} ({defect.issue})", f"`{defect.check}`"]


def _kind(defect: Defect) -> str:
    return "declared gap" if defect.is_gap else "finding"


def _seen(defect: Defect, table: Table) -> str:
    """In which versions, and of which nothing is known."""
    unknown = [version.name for version, count in zip(table.versions, defect.counts, strict=True) if count is None]
    if len(unknown) == len(table.versions) - 1:
        return defect.seen
    return defect.seen + (f" (unknown in {', '.join(unknown)})" if unknown else "")


def _blocks(columns: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Columns in their order, as many side by side as fit, one at least."""
    block: list[list[str]] = []
    left = width
    for column in columns:
        needs = 2 + max(map(len, column))
        if block and needs > left:
            yield block
            block, left = [], width
        block.append(column)
        left -= needs
    yield block


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, words)) for words in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(f"{word:{width}}" for word, width in zip(line, widths, strict=True)).rstrip()


def _table(table: Table) -> dict[str, object]:
    return {
        "setting": asdict(table.setting),
        "versions": [
            {
                "name": one.name, "version": one.version, "commit": one.commit, "complete": one.complete,
                "cause": one.cause, "counts": {state: one.counts[state] for state in State if one.counts[state]},
            }
            for one in table.versions
        ],
        "features": [_feature(row) for row in table.rows],
        "defects": [asdict(defect) for defect in table.defects],
    }  # fmt: skip


def _feature(row: Row) -> dict[str, object]:
    cells = [
        {"state": cell.state, "worst": word(cell), "passed": cell.counts[State.PASS], "run": cell.ran,
         "total": cell.total}
        for cell in row.cells
    ]  # fmt: skip
    return {"feature": row.name, "meaning": row.meaning, "cells": cells, "claim": row.claim}
