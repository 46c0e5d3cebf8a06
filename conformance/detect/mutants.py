"""The mutants of a kernel module: stable ids, minimal diffs, in order of position."""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from conformance.detect.names import OF_NAMES
from conformance.detect.operators import OF_EXPRESSIONS, OF_STATEMENTS, Edit, Place
from conformance.detect.source_text import SourceText, names_bound, own_expressions, own_lines, statements


@dataclass(frozen=True)
class Mutant:
    """One change to one function of a module. `lines` are the first and last of the statement that it changes."""

    id: str  # `unified_attention.py:312:comparison:<=`
    module: str
    function: str
    operator: str
    lines: tuple[int, int]
    edit: Edit

    def applied(self, text: str) -> str:
        """The module's text with this change."""
        return text[: self.edit.start] + self.edit.new + text[self.edit.end :]

    def diff(self, text: str) -> list[str]:
        """The lines that change, `-` before and `+` after."""
        first = text.rfind("\n", 0, self.edit.start) + 1
        last = text.find("\n", self.edit.end) % (len(text) + 1)
        before, after = text[first:last], text[first : self.edit.start] + self.edit.new + text[self.edit.end : last]
        lines = difflib.ndiff(before.splitlines(), after.splitlines())
        return [line.rstrip() for line in lines if line[0] in "+-"]

    def digest(self, text: str) -> str:
        """Of the change and the lines that it is made in: an entry in a list that names both cannot go stale unseen."""
        return hashlib.sha256("\n".join(self.diff(text)).encode()).hexdigest()[:12]


def mutants(module: str, text: str) -> list[Mutant]:
    """Every mutant of the functions in `text` that `triton.jit` decorates; `module` is its dotted name."""
    source, file = SourceText(text), f"{module.rpartition('.')[2]}.py"
    found: list[Mutant] = []
    taken: Counter[str] = Counter()
    for function in source.jitted():
        place = Place(source, names_bound(function))
        for statement in statements(function):
            seen = {ast.dump(statement)}
            for edit in sorted(_edits(statement, place), key=lambda edit: (edit.start, edit.end)):
                changed = _parsed(source, statement, edit)
                if changed is None or changed in seen:
                    continue
                seen.add(changed)
                name = f"{file}:{source.line_of(edit.start)}:{edit.operator}:{edit.detail}"
                taken[name] += 1
                unique = name if taken[name] == 1 else f"{name}#{taken[name]}"
                found.append(Mutant(unique, module, function.name, edit.operator, own_lines(statement), edit))
    return found


def _edits(statement: ast.stmt, place: Place) -> Iterator[Edit]:
    for of_statement in OF_STATEMENTS:
        yield from of_statement(statement, place)
    for node in own_expressions(statement):
        for of_expression in (*OF_EXPRESSIONS, *OF_NAMES):
            yield from of_expression(node, place)


def _parsed(source: SourceText, statement: ast.stmt, edit: Edit) -> str | None:
    """The statement as it reads after an edit, as a tree in text; None if it is none."""
    start, end = source.span(statement)
    changed = source.text[start : edit.start] + edit.new + source.text[edit.end : end]
    try:
        (tree,) = ast.parse(changed).body
    except (SyntaxError, ValueError):
        return None
    return ast.dump(tree)
