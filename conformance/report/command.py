"""The command: records in, one page out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conformance.record import BadRecord, try_to_write

GOOD, NOT_GOOD, BAD_USAGE, INCOMPLETE = range(4)

PAGE = b"<!doctype html>"
"""How a page begins."""

HEAVY = 3_000_000
"""Bytes from which on a page is slow to open, and too much for some viewers of artifacts."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `report` to the command line."""
    report = commands.add_parser("report", help="one page of any number of records, to open in a browser")
    report.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="those of one system are joined")
    report.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="write it there")
    report.add_argument("--docs", default="", metavar="URL", help="where docs/ of this suite lies, to link to")
    report.set_defaults(command=main)


def main(options: argparse.Namespace, _: list[str]) -> int:
    """Write the page. Exit code 1 if a newest version regressed or fails unexplained, 3 for an incomplete record.

    Raises BadRecord for what is no record, what cannot stand side by side, and a file that cannot be written.
    """
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError:
        print("conformance: report needs Jinja: python -m pip install jinja2", file=sys.stderr)
        return BAD_USAGE
    _refuse_to_lose(options.output)
    from conformance.report.changes import Verdict
    from conformance.report.html import html
    from conformance.report.page import page

    made = page(options.records)
    written = html(made, options.docs).encode()
    try:
        options.output.write_bytes(written)
    except OSError as error:
        raise _unwritable(options.output, error) from error
    for answer in made.answers:
        print(f"{answer.verdict}: {answer.sentence}")
    for name, said in made.warnings:
        print(f"{name}: {said}")
    heavy = f", heavier than {HEAVY / 1e6:g} MB: leave out some records" if len(written) > HEAVY else ""
    print(f"page: {options.output}, {len(written) / 1e6:.2f} MB{heavy}")
    verdicts = {answer.verdict for answer in made.answers}
    if verdicts & {Verdict.REGRESSED, Verdict.UNEXPLAINED}:
        return NOT_GOOD
    complete = all(version.column.complete for version in made.versions)
    return GOOD if complete and not verdicts & {Verdict.NOTHING_RAN, Verdict.INCOMPLETE} else INCOMPLETE


def _refuse_to_lose(output: Path) -> None:
    """Raises BadRecord, before any work is done, where no page can be written, or where something else lies."""
    try:
        if output.is_file() and output.read_bytes()[: len(PAGE)] != PAGE:
            raise BadRecord(f"{output} exists, is no page, and is kept: write the page somewhere else")
        try_to_write(output)
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: OSError) -> BadRecord:
    return BadRecord(f"cannot write the page to {output}: {error.strerror}")
