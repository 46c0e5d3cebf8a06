"""Mutation operators on expressions and statements: each yields the small changes that one node admits."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from conformance.detect.source_text import SourceText

VERSION = 1
"""Part of every record: raise it when an operator yields other mutants."""


@dataclass(frozen=True)
class Edit:
    """`text[start:end]` becomes `new`. `operator` and `detail` name the change in a mutant's id."""

    start: int
    end: int
    new: str
    operator: str
    detail: str


@dataclass(frozen=True)
class Place:
    """Where an operator looks: the source, and the names of the function with the line that first binds each."""

    source: SourceText
    bound: dict[str, int]

    def replace(self, node: ast.expr | ast.stmt, new: str, operator: str, detail: str) -> Edit:
        return Edit(*self.source.span(node), new, operator, detail)


BOUNDARY = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
NEGATION = {ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<",
            ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is"}  # fmt: skip
TOKEN = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is",
         ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//",
         ast.Mod: "%", ast.BitAnd: "&", ast.BitOr: "|", ast.LShift: "<<", ast.RShift: ">>", ast.Pow: "**"}  # fmt: skip
ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Div: "*", ast.FloorDiv: "%", ast.Mod: "//",
              ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>", ast.RShift: "<<"}  # fmt: skip
NOT_COMMUTATIVE = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.LShift, ast.RShift)
EXTREMES = {"minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min"}


def comparison(node: ast.expr, place: Place) -> Iterator[Edit]:
    """`<` becomes `<=`, or `>=`; `==` becomes `!=`; `is` becomes `is not`."""
    if not isinstance(node, ast.Compare):
        return
    operands = [node.left, *node.comparators]
    for left, right, kind in zip(operands, operands[1:], map(type, node.ops), strict=False):
        if kind in TOKEN:
            span = place.source.token_between(left, right, TOKEN[kind])
            for table in (BOUNDARY, NEGATION):
                if kind in table:
                    yield Edit(*span, table[kind], "comparison", table[kind])


def constant(node: ast.expr, place: Place) -> Iterator[Edit]:
    """An integer one up, and one down where it is not 0; True becomes False."""
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield place.replace(node, str(not node.value), "constant", str(not node.value))
    elif isinstance(node.value, int):
        for other in (node.value + 1, node.value - 1):
            if other >= 0:
                yield place.replace(node, str(other), "constant", str(other))


def float_constant(node: ast.expr, place: Place) -> Iterator[Edit]:
    """0.0 becomes 1.0, 1.0 becomes 0.0, every other float 1.0, and `float("-inf")` 0.0."""
    if isinstance(node, ast.Constant) and isinstance(node.value, float):
        other = "0.0" if node.value == 1.0 else "1.0"
        yield place.replace(node, other, "float", other)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
        yield place.replace(node, "0.0", "float", "0.0")


def arithmetic(node: ast.expr, place: Place) -> Iterator[Edit]:
    """Another operator in place of one; `//` rounds up instead of down; a sign or a negation is lost."""
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield place.replace(node, place.source.operand(node.operand), "arithmetic", "unsigned")
    if not isinstance(node, ast.BinOp):
        return
    if other := ARITHMETIC.get(type(node.op)):
        span = place.source.token_between(node.left, node.right, TOKEN[type(node.op)])
        yield Edit(*span, other, "arithmetic", other)
    if isinstance(node.op, ast.FloorDiv):
        a, b = place.source.operand(node.left), place.source.operand(node.right)
        yield place.replace(node, f"(({a} + {b} - 1) // {b})", "arithmetic", "cdiv")


def dropped_operand(node: ast.expr, place: Place) -> Iterator[Edit]:
    """A factor (a missing rescale), a term of 1, a conjunct or a disjunct is lost."""
    if isinstance(node, ast.BinOp):
        left, right = map(place.source.operand, (node.left, node.right))
        if isinstance(node.op, ast.Mult | ast.Div):
            yield place.replace(node, left, "rescale", "left")
        if isinstance(node.op, ast.Mult) and not _is_unit(node.right):
            yield place.replace(node, right, "rescale", "right")
        if isinstance(node.op, ast.Add | ast.Sub) and isinstance(node.right, ast.Constant):
            yield place.replace(node, left, "term", "left")
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            yield place.replace(node, left, "mask", "left")
            yield place.replace(node, right, "mask", "right")
    elif isinstance(node, ast.BoolOp):
        word, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for index, (one, two) in enumerate(zip(node.values, node.values[1:], strict=False)):
            yield Edit(*place.source.token_between(one, two, word), other, "condition", other)
            pair = (place.source.span(one)[0], place.source.span(two)[1])
            if not index:
                yield Edit(*pair, place.source.operand(two), "condition", "right")
            yield Edit(*pair, place.source.operand(one), "condition", f"left{index or ''}")


def swapped_operands(node: ast.expr, place: Place) -> Iterator[Edit]:
    """`a - b` becomes `b - a`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, NOT_COMMUTATIVE):
        left, right = map(place.source.operand, (node.left, node.right))
        yield place.replace(node, f"{right} {TOKEN[type(node.op)]} {left}", "swap", TOKEN[type(node.op)])


def mask(node: ast.expr, place: Place) -> Iterator[Edit]:
    """`mask=` and its `other=` are removed from a load or a store; `where(c, x, y)` becomes x."""
    if not isinstance(node, ast.Call):
        return
    named = {keyword.arg: keyword for keyword in node.keywords}
    if "mask" in named:
        kept = [*node.args, *(keyword for keyword in node.keywords if keyword.arg not in ("mask", "other"))]
        arguments = ", ".join(map(place.source.says, kept))
        yield place.replace(node, f"{place.source.says(node.func)}({arguments})", "mask", "none")
    if _called(node) == "where" and len(node.args) == 3:
        yield place.replace(node, place.source.operand(node.args[1]), "mask", "where")


def extreme(node: ast.expr, place: Place) -> Iterator[Edit]:
    """A minimum becomes a maximum."""
    if isinstance(node, ast.Call) and (other := EXTREMES.get(_called(node))):
        end = place.source.span(node.func)[1]
        yield Edit(end - len(_called(node)), end, other, "extreme", other)


def cast(node: ast.expr, place: Place) -> Iterator[Edit]:
    """`tl.cast(x, T)` and `x.to(T)` become x; `tl.float32` becomes `tl.float16`."""
    if isinstance(node, ast.Attribute) and node.attr == "float32":
        end = place.source.span(node)[1]
        yield Edit(end - len("float32"), end, "float16", "cast", "float16")
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    if node.func.attr == "cast" and node.args:
        yield place.replace(node, place.source.operand(node.args[0]), "cast", "none")
    elif node.func.attr == "to":
        yield place.replace(node, place.source.operand(node.func.value), "cast", "none")


def magnitude(node: ast.expr, place: Place) -> Iterator[Edit]:
    """`tl.abs(x)` becomes x."""
    if isinstance(node, ast.Call) and _called(node) == "abs" and len(node.args) == 1:
        yield place.replace(node, place.source.operand(node.args[0]), "magnitude", "signed")


def choice(node: ast.expr, place: Place) -> Iterator[Edit]:
    """The condition of `x if c else y` is negated."""
    if isinstance(node, ast.IfExp):
        yield place.replace(node.test, f"not {place.source.operand(node.test)}", "condition", "not")


def condition(statement: ast.stmt, place: Place) -> Iterator[Edit]:
    """The condition of an `if` or a `while` is negated."""
    if isinstance(statement, ast.If | ast.While):
        yield place.replace(statement.test, f"not ({place.source.says(statement.test)})", "condition", "not")


def loop(statement: ast.stmt, place: Place) -> Iterator[Edit]:
    """The first, or the last, turn of `for ... in range(...)` is lost."""
    if not (isinstance(statement, ast.For) and isinstance(statement.iter, ast.Call)):
        return
    if _called(statement.iter) != "range" or statement.iter.keywords or not statement.iter.args:
        return
    said = list(map(place.source.operand, statement.iter.args))
    start, stop, step = ["0", *said, "1"] if len(said) == 1 else [*said, "1"][:3]
    called = place.source.says(statement.iter.func)
    yield place.replace(statement.iter, f"{called}({start} + {step}, {stop}, {step})", "loop", "first")
    yield place.replace(statement.iter, f"{called}({start}, {stop} - {step}, {step})", "loop", "last")


def dropped_statement(statement: ast.stmt, place: Place) -> Iterator[Edit]:
    """`x += y`, a second assignment to a name, a store, or a return from amid a function is lost."""
    if isinstance(statement, ast.AugAssign):
        yield place.replace(statement, "pass", "statement", "augmented")
    elif isinstance(statement, ast.Assign):
        names = [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        if names and all(place.bound.get(name, statement.lineno) < statement.lineno for name in names):
            yield place.replace(statement, "pass", "statement", "assigned")
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        yield place.replace(statement, "pass", "statement", "called")
    elif isinstance(statement, ast.Return) and statement.value is None:
        yield place.replace(statement, "pass", "statement", "returned")


def _is_unit(node: ast.expr) -> bool:
    """Is it a stride or a size, by which an index is multiplied? Only its loss, not that of the index, is tried."""
    return isinstance(node, ast.Name) and ("stride" in node.id or node.id.isupper())


def _called(call: ast.Call) -> str:
    """The last word of what is called: `maximum` for `tl.maximum(...)`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


OF_EXPRESSIONS: tuple[Callable[[ast.expr, Place], Iterator[Edit]], ...] = (
    comparison, constant, float_constant, arithmetic, dropped_operand, swapped_operands, mask, extreme, cast,
    magnitude, choice,
)  # fmt: skip
OF_STATEMENTS: tuple[Callable[[ast.stmt, Place], Iterator[Edit]], ...] = (condition, loop, dropped_statement)
