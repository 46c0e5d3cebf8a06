"""The matrix as a person reads it, in a terminal or in Markdown, and as JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby, zip_longest

from conformance.matrix.cells import Came, Cell, Matrix, Note, State

SIGNS = {
    State.UNEXPLAINED: "!!",
    State.FINDING: "x",
    State.GAP: "~",
    State.NOT_RUN: "?",
    State.REFUSED: "-",
    State.PASS: "+",
}
"""The first character of a cell: told apart without colour."""

LEGEND = (
    "A cell is passed/run/of all checks of its path and feature, then what else they came to.",
    "  +  all passed                          -  some were refused, in words [n], and the rest passed",
    "  ?  some were not run                   ~  some fail as a declared gap [n] expects",
    "  x  some fail, by a known finding [n]   !! some fail, and nothing explains it",
    "  An empty cell: what the row asks goes another way there.",
)

TITLES = {State.REFUSED: "refused", State.GAP: "declared gap", State.FINDING: "finding"}


def as_text(matrix: Matrix) -> Iterator[str]:
    """Columns side by side under a heading for each path; then notes, what is unexplained, and the verdict."""
    numbers = _numbers(matrix)
    lines = [["", *_headings(matrix)], ["", *(column.system.target for column in matrix.columns)]]
    for path, rows in groupby(matrix.rows, key=lambda row: row.path):
        lines += [[""], [path]]
        lines += [[f"  {row.feature.name}", *(_cell(cell, numbers) for cell in row.cells)] for row in rows]
    widths = [max(map(len, words)) for words in zip_longest(*lines, fillvalue="")]
    for line in lines:
        yield "  ".join(f"{word:{width}}" for word, width in zip(line, widths, strict=False)).rstrip()
    yield from ("", *LEGEND, "", *_columns(matrix), "")
    for note, number in numbers.items():
        yield f"[{number}] {_note(note)}"
        yield f"    {matrix.example(note)}"
    for check, said in _unexplained(matrix):
        yield f"!! {check}"
        yield from (f"   {one}" for one in said)
    yield _verdict(matrix)


def as_markdown(matrix: Matrix) -> Iterator[str]:
    """One table, and lists of the same notes."""
    numbers = _numbers(matrix)
    targets = [column.system.target for column in matrix.columns]
    yield markdown_row(["path", "feature", *map("{}<br>{}".format, _headings(matrix), targets)])
    yield markdown_row(["---"] * (2 + len(targets)))
    for row in matrix.rows:
        yield markdown_row([f"`{row.path}`", row.feature.name, *(_cell(cell, numbers) for cell in row.cells)])
    yield from ("", "```", *LEGEND, "```", "", *(f"* {line}" for line in _columns(matrix)))
    for note, number in numbers.items():
        yield f"* [{number}] {_note(note)}: `{matrix.example(note)}`"
    for check, said in _unexplained(matrix):
        yield f"* `{check}`: {'; '.join(said)}"
    yield from ("", _verdict(matrix))


def as_json(matrix: Matrix) -> Iterator[str]:
    """Everything, with notes by their number, and each unexplained failure with its column's."""
    numbers = _numbers(matrix)
    columns = [
        asdict(column.system) | {"name": column.system.name, "complete": column.complete, "counts": _counted(came)}
        for column, came in zip(matrix.columns, matrix.came, strict=True)
    ]
    rows = [
        {"path": row.path, "feature": row.feature.name, "cells": [_object(cell, numbers) for cell in row.cells]}
        for row in matrix.rows
    ]
    notes = [
        {
            "number": number,
            "kind": TITLES[note.state],
            "reason": note.reason,
            "issue": note.issue,
            "check": matrix.example(note),
        }
        for note, number in numbers.items()
    ]
    unexplained = [
        {"column": matrix.columns.index(column), "check": one.check, "status": one.word, "reason": one.reason}
        for column, one in matrix.unexplained
    ]
    features = {row.feature.name: row.feature.meaning for row in matrix.rows}
    yield json.dumps(
        {"columns": columns, "features": features, "rows": rows, "notes": notes, "unexplained": unexplained}, indent=1
    )


FORMATS: dict[str, Callable[[Matrix], Iterator[str]]] = {"text": as_text, "markdown": as_markdown, "json": as_json}


# -- parts -------------------------------------------------------------------------------------------------------------


def _numbers(matrix: Matrix) -> dict[Note, int]:
    """Every note with its number, in the order in which cells show them."""
    notes = dict.fromkeys(note for row in matrix.rows for cell in row.cells for note in cell.notes)
    return {note: number for number, note in enumerate(notes, 1)}


def _headings(matrix: Matrix) -> list[str]:
    """Names of columns; with the commit and the device where the name and the target are another column's too."""
    often = Counter((column.system.name, column.system.target) for column in matrix.columns)
    return [
        system.name if often[system.name, system.target] == 1 else
        ", ".join(filter(None, (system.name, system.commit[:7], system.device)))
        for system in (column.system for column in matrix.columns)
    ]  # fmt: skip


def _cell(cell: Cell, numbers: Mapping[Note, int]) -> str:
    """`x 9/12/12 NONFINITE known 2 [5], expected 1 [1], refused 4 [2]`."""
    if cell.state is None:
        return ""
    counts = cell.counts
    said = f"{SIGNS[cell.state]} {counts[State.PASS]}/{cell.ran}/{cell.total}"
    parts = []
    for state in State:
        if state is State.PASS or not counts[state]:
            continue
        marks = ",".join(map(str, sorted(numbers[note] for note in cell.notes if note.state is state)))
        how_many = f": {counts[state]}" if state is State.UNEXPLAINED else f" {counts[state]}"
        parts.append(f"{state}{how_many}" + (f" [{marks}]" if marks else ""))
    failing = f" {cell.worst}" if cell.worst else ""
    return f"{said}{failing}" + (f" {', '.join(parts)}" if parts else "")


def _object(cell: Cell, numbers: Mapping[Note, int]) -> dict[str, object] | None:
    if cell.state is None:
        return None
    counts = cell.counts
    return {
        "state": cell.state,
        "worst": cell.worst,
        "passed": counts[State.PASS],
        "run": cell.ran,
        "total": cell.total,
        "counts": {state: counts[state] for state in State if counts[state]},
        "notes": [numbers[note] for note in cell.notes],
    }


def _columns(matrix: Matrix) -> Iterator[str]:
    """What each column holds."""
    for column, came in zip(matrix.columns, matrix.came, strict=True):
        cut = "" if column.complete else "; INCOMPLETE, a run was cut short or a shard is missing"
        yield f"{column.system.described}: {', '.join(f'{n} {state}' for state, n in _counted(came).items())}{cut}"


def _counted(came: Mapping[str, Came]) -> dict[State, int]:
    """How many checks of a column came to what, the best first."""
    counts = Counter(one.state for one in came.values())
    return {state: counts[state] for state in reversed(State) if counts[state]}


def _note(note: Note) -> str:
    return f"{TITLES[note.state]}: {note.reason}" + (f" ({note.issue})" if note.issue else "")


def _unexplained(matrix: Matrix) -> Iterator[tuple[str, list[str]]]:
    """Each check that fails in some column without an explanation, and how in which."""
    by_check: dict[str, list[str]] = defaultdict(list)
    for column, one in matrix.unexplained:
        said = f"{column.system.name} ({column.system.target}): {one.word}"
        by_check[one.check].append(said + (f", {one.reason}" if one.reason else ""))
    yield from by_check.items()


def _verdict(matrix: Matrix) -> str:
    cells = Counter(cell.state for row in matrix.rows for cell in row.cells if cell.state)
    if not matrix.anything_ran:
        return "NOTHING RAN."
    if matrix.unexplained:
        checks = len({one.check for _, one in matrix.unexplained})
        return f"UNEXPLAINED: {cells[State.UNEXPLAINED]} of {cells.total()} cells, by {checks} checks that fail."
    if not matrix.complete:
        return "INCOMPLETE: no cell unexplained, but what a cut record lacks may have failed."
    return f"NO CELL UNEXPLAINED: of {cells.total()} cells, {cells[State.PASS]} passed whole."


def markdown_row(words: Iterable[str]) -> str:
    """One of a table in Markdown."""
    return "| " + " | ".join(word.strip().replace("|", r"\|") for word in words) + " |"
