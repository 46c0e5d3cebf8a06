"""The issue drafts of docs/upstream can be run as they say; that they fail is seen by hand, with an AITER."""

import re
import runpy
from pathlib import Path

import pytest

from conformance import backends
from conformance.case import Case

FOLDER = Path(__file__).parents[2] / "docs" / "upstream"
DRAFTS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


def test_every_draft_is_listed() -> None:
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [draft.name for draft in DRAFTS]


@pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: draft.stem)
def test_its_script_compiles_for_a_gpu_and_names_its_kernel(draft: Path) -> None:
    reproduce = runpy.run_path(str(FOLDER / "reproduce.py"))
    code = reproduce["script"](draft)
    compile(code, str(draft), "exec")
    assert reproduce["GPU"] in code
    ((module, function),) = reproduce["KERNEL"].findall(code)[:1]
    assert f"`{function}` of `{module}`" in draft.read_text(encoding="utf-8").replace("\n", " ")


@pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: draft.stem)
def test_its_cases_and_backends_are_there(draft: Path) -> None:
    text = draft.read_text(encoding="utf-8")
    cases = re.findall(r"--case (\S+)", text)
    assert cases
    assert [Case.parse(case).id for case in cases] == cases
    assert set(re.findall(r"--backend (\S+)", text)) <= set(backends.names())
