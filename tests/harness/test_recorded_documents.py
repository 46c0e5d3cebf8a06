"""docs/qualification.md and docs/matrix.md say of the CPU what the records say that are committed beside them."""

import re
from pathlib import Path

import pytest

from conformance.matrix import FORMATS, State, matrix, of_records
from conformance.qualify.shown import as_markdown
from conformance.qualify.table import Table, of_paths

DOCS = Path(__file__).parents[2] / "docs"
RECORDS = DOCS / "records"


@pytest.fixture(scope="module")
def table() -> Table:
    """The one table of all records of AITER."""
    (table,) = of_paths(sorted(RECORDS.glob("[0-9]*.jsonl.xz")))
    return table


def test_every_line_of_the_qualification_is_in_its_document(table: Table) -> None:
    lines = [line for line in as_markdown([table]) if line.startswith("| ")]
    lines = [re.sub(r"\(docs/(findings\.md#[\w-]+)\)", r"([findings](\1))", line) for line in lines]
    document = (DOCS / "qualification.md").read_text().splitlines()
    assert [line for line in lines if line not in document] == []
    assert len(lines) > 80


def test_no_failure_of_the_records_is_unexplained(table: Table) -> None:
    assert len(table.versions) == 16
    assert sum(version.counts[State.UNEXPLAINED] for version in table.versions) == 0
    assert [version.name for version in table.versions if version.cause] == ["0.1.10.post3", "0.1.11.post1"]


def test_the_matrix_of_the_records_is_in_its_document() -> None:
    names = ("0.1.16-*interpreter*", "0.1.20.post1-*interpreter*", "0.1.21.dev46-*interpreter*", "vllm-*")
    made = matrix(of_records([path for name in names for path in RECORDS.glob(name)]))
    assert "\n".join(FORMATS["markdown"](made)).strip() in (DOCS / "matrix.md").read_text()
    assert made.unexplained == []


def test_core_on_the_interpreter_is_explained_whole() -> None:
    made = matrix(of_records(sorted((RECORDS / "core").glob("*.jsonl.xz"))))
    assert made.unexplained == []
    assert made.complete
    assert sum(one.state is State.FINDING for one in made.came[0].values()) == 42
