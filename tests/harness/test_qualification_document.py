"""docs/qualification.md says of the CPU what the records say that are committed beside it, to the letter."""

import re
from pathlib import Path

import pytest

from conformance.matrix.cells import State
from conformance.qualify.shown import as_markdown
from conformance.qualify.table import Table, of_paths

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def table() -> Table:
    """The one table of all records."""
    (table,) = of_paths(sorted((DOCS / "records").glob("*.jsonl.xz")))
    return table


def test_every_line_of_the_tables_is_in_the_document(table: Table) -> None:
    lines = [line for line in as_markdown([table]) if line.startswith("| ")]
    lines = [re.sub(r"\(docs/(findings\.md#[\w-]+)\)", r"([findings](\1))", line) for line in lines]
    document = (DOCS / "qualification.md").read_text().splitlines()
    missing = [line for line in lines if line not in document]
    assert missing == [], "docs/qualification.md is not what docs/records say"
    assert len(lines) > 80


def test_no_failure_of_the_records_is_unexplained(table: Table) -> None:
    assert len(table.versions) == 13
    assert sum(version.counts[State.UNEXPLAINED] for version in table.versions) == 0
    assert [version.name for version in table.versions if version.cause] == ["0.1.10.post3", "0.1.11.post1"]
