"""A module's text with its syntax tree: where a node stands, what it says, which function and statement hold it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

Function = ast.FunctionDef
ATOMS = (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript, ast.Tuple, ast.List)


@dataclass(frozen=True)
class SourceText:
    """The text of a module, by the names that the operators ask for."""

    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.splitlines(keepends=True)

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self._lines:
            starts.append(starts[-1] + len(line))
        return starts

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        """First character of a node, and the one after its last."""
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return self._offset(node.lineno, node.col_offset), self._offset(end_line, end_column)

    def says(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def operand(self, node: ast.expr) -> str:
        """What a node says, in parentheses where it could not stand alone as an operand."""
        said = self.says(node)
        return said if isinstance(node, ATOMS) and "\n" not in said else f"({said})"

    def token_between(self, left: ast.expr, right: ast.expr, token: str) -> tuple[int, int]:
        """The span of an operator between its operands; comments do not count."""
        start, end = self.span(left)[1], self.span(right)[0]
        bare = re.sub(r"#[^\n]*", lambda comment: " " * len(comment.group()), self.text[start:end])
        at = re.search(r"\s+".join(map(re.escape, token.split())), bare)
        if at is None:
            raise ValueError(f"no {token} between its operands in {self.text[start:end]!r}")
        return start + at.start(), start + at.end()

    def line_of(self, offset: int) -> int:
        """The line number, from 1, of a character."""
        return self.text.count("\n", 0, offset) + 1

    def jitted(self) -> Iterator[Function]:
        """The functions that `triton.jit` decorates, in order."""
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and any(map(_is_jit, node.decorator_list)):
                yield node

    def _offset(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        # The tree counts bytes of UTF-8.
        characters = column if text.isascii() else len(text.encode()[:column].decode())
        return self._starts[line - 1] + characters


def _is_jit(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (isinstance(called, ast.Attribute) and called.attr == "jit") or (
        isinstance(called, ast.Name) and called.id == "jit"
    )


def statements(function: Function) -> Iterator[ast.stmt]:
    """Every statement of a function's body, outer ones first, in order of position; no docstring."""
    pending = list(function.body)
    while pending:
        statement = pending.pop(0)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        yield statement
        inner = [child for block in ("body", "orelse") for child in getattr(statement, block, [])]
        pending = inner + pending


def own_expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """The expressions of a statement itself, not of the statements in it; no annotations, no plain targets."""
    roots: list[ast.expr | None] = {
        ast.If: lambda s: [s.test],
        ast.While: lambda s: [s.test],
        ast.For: lambda s: [s.iter],
        ast.Return: lambda s: [s.value],
    }.get(type(statement), lambda s: [getattr(s, "value", None)])(statement)
    for root in roots:
        if root is not None:
            yield from (node for node in ast.walk(root) if isinstance(node, ast.expr))


def own_lines(statement: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, or of its header if it holds others."""
    header = {ast.If: "test", ast.While: "test", ast.For: "iter"}.get(type(statement))
    last: ast.expr | ast.stmt = getattr(statement, header) if header else statement
    return statement.lineno, last.end_lineno or last.lineno


def names_bound(function: Function) -> dict[str, int]:
    """The line on which each name of a function is first bound: its arguments, then what it assigns."""
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    bound = {argument.arg: function.lineno for argument in arguments}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound[node.id] = min(bound.get(node.id, node.lineno), node.lineno)
    return bound
