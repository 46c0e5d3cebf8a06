"""Every mutation operator, on sources of the tests' own: which changes it makes, and that ids and diffs are exact."""

from __future__ import annotations

import ast

import pytest

from conformance.detect.mutants import Mutant, mutants

HEADER = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef kernel({arguments}):\n"


def source(body: str, arguments: str = "a, b, c") -> str:
    return HEADER.format(arguments=arguments) + "".join(f"    {line}\n" for line in body.splitlines())


def changed(body: str, operator: str, arguments: str = "a, b, c") -> list[str]:
    """The added lines of each mutant that `operator` makes of a kernel's body."""
    text = source(body, arguments)
    found = [mutant for mutant in mutants("aiter.small", text) if mutant.operator == operator]
    return [
        " / ".join(line[2:].strip() for line in mutant.diff(text) if line.startswith("+")) or "nothing"
        for mutant in found
    ]


@pytest.mark.parametrize(
    ("operator", "body", "expected"),
    [
        ("comparison", "x = a < b", ["x = a <= b", "x = a >= b"]),
        ("comparison", "x = a <= b", ["x = a < b", "x = a > b"]),
        ("comparison", "x = a > b", ["x = a >= b", "x = a <= b"]),
        ("comparison", "x = a >= b", ["x = a > b", "x = a < b"]),
        ("comparison", "x = a == b", ["x = a != b"]),
        ("comparison", "x = a is not None", ["x = a is None"]),
        ("comparison", "x = (a) < (b)", ["x = (a) <= (b)", "x = (a) >= (b)"]),
        ("constant", "x = a[3]", ["x = a[4]", "x = a[2]"]),
        ("constant", "x = a[0]", ["x = a[1]"]),
        ("constant", "x = f(True)", ["x = f(False)"]),
        ("float", "x = 0.0", ["x = 1.0"]),
        ("float", "x = 1.0", ["x = 0.0"]),
        ("float", "x = a * 1.44269504", ["x = a * 1.0"]),
        ("float", 'x = float("-inf")', ["x = 0.0"]),
        ("arithmetic", "x = a + b", ["x = a - b"]),
        ("arithmetic", "x = a - b", ["x = a + b"]),
        ("arithmetic", "x = a / b", ["x = a * b"]),
        ("arithmetic", "x = a // b", ["x = ((a + b - 1) // b)", "x = a % b"]),
        ("arithmetic", "x = a % b", ["x = a // b"]),
        ("arithmetic", "x = a & b", ["x = a | b"]),
        ("arithmetic", "x = a >> b", ["x = a << b"]),
        ("arithmetic", "x = -a", ["x = a"]),
        ("arithmetic", "x = ~(a & b)", ["x = (a & b)", "x = ~(a | b)"]),
        ("swap", "x = a - b", ["x = b - a"]),
        ("swap", "x = a - (b + c)", ["x = (b + c) - a"]),
        ("swap", "x = a + b", []),
        ("rescale", "x = a * alpha", ["x = a", "x = alpha"]),
        ("rescale", "x = a / denominator", ["x = a"]),
        ("rescale", "x = c - a * (b + 1)", ["x = c - a", "x = c - (b + 1)"]),
        ("rescale", "x = a * BLOCK_M", ["x = a"]),
        ("term", "x = a + 1", ["x = a"]),
        ("term", "x = a + b", []),
        ("mask", "x = (a < 1) & b", ["x = (a < 1)", "x = b"]),
        ("mask", "x = tl.where(a, b, c)", ["x = b"]),
        ("mask", "x = tl.load(a, mask=b, other=0.0, cache_modifier=c)", ["x = tl.load(a, cache_modifier=c)"]),
        ("mask", "tl.store(a, b, mask=c)", ["tl.store(a, b)"]),
        ("extreme", "x = tl.minimum(a, b)", ["x = tl.maximum(a, b)"]),
        ("extreme", "x = tl.max(a, 1)", ["x = tl.min(a, 1)"]),
        ("extreme", "x = min(a, b)", ["x = max(a, b)"]),
        ("cast", "x = tl.cast(a, tl.int64)", ["x = a"]),
        ("cast", "x = (a * b).to(c.dtype)", ["x = (a * b)"]),
        ("cast", "x = tl.zeros([4], dtype=tl.float32)", ["x = tl.zeros([4], dtype=tl.float16)"]),
        ("magnitude", "x = tl.abs(a)", ["x = a"]),
        ("condition", "if a:\n    x = b", ["if not (a):"]),
        ("condition", "while a:\n    x = b", ["while not (a):"]),
        ("condition", "x = b if a else c", ["x = b if not a else c"]),
        ("condition", "x = a and b", ["x = b", "x = a", "x = a or b"]),
        (
            "loop",
            "for i in range(a, b, c):\n    x = i",
            ["for i in range(a + c, b, c):", "for i in range(a, b - c, c):"],
        ),
        ("loop", "for i in range(a):\n    x = i", ["for i in range(0 + 1, a, 1):", "for i in range(0, a - 1, 1):"]),
        ("statement", "x = a\nx = b", ["pass"]),
        ("statement", "x = a", []),
        ("statement", "a *= b", ["pass"]),
        ("statement", "tl.store(a, b)", ["pass"]),
        ("statement", "if a:\n    return", ["pass"]),
    ],
)
def test_an_expression_or_a_statement(operator: str, body: str, expected: list[str]) -> None:
    assert sorted(changed(body, operator)) == sorted(expected)


def test_a_stride_becomes_the_next_of_its_tensor_and_keys_become_values() -> None:
    arguments = "a, stride_kz, stride_kn, stride_vz, stride_vn, stride_bt_b, stride_bt_s"
    assert changed("x = a * stride_kz", "stride", arguments) == ["x = a * stride_kn", "x = a * stride_vz"]
    assert changed("x = a * stride_vn", "stride", arguments) == ["x = a * stride_vz", "x = a * stride_kn"]
    assert changed("x = a * stride_bt_b", "stride", arguments) == ["x = a * stride_bt_s"]
    numbered = "a, stride_k_cache_0, stride_k_cache_1, stride_v_cache_0, stride_v_cache_1, row_stride_0, row_stride_1"
    assert changed("x = a * stride_k_cache_1", "stride", numbered) == [
        "x = a * stride_k_cache_0",
        "x = a * stride_v_cache_1",
    ]
    assert changed("x = a * row_stride_0", "stride", numbered) == ["x = a * row_stride_1"]


def test_an_operand_becomes_one_that_it_is_easily_taken_for() -> None:
    arguments = "hq_id, hk_id, key_ptr, value_ptr, left, right, unrelated"
    assert changed("x = hk_id", "operand", arguments) == ["x = hq_id"]
    assert changed("x = key_ptr", "operand", arguments) == ["x = value_ptr"]
    assert changed("x = left", "operand", arguments) == ["x = right"]
    assert changed("x = unrelated", "operand", arguments) == []
    assert changed("x = hk_id\nhv_id = 1", "operand", "hk_id") == [], "a name that is bound later is none"


def test_only_jitted_functions_are_changed_and_nothing_that_is_no_code_of_theirs() -> None:
    other = "@triton.jit(repr=1 + 1)\ndef other(p: int = 1 + 1):\n    return p + 5\n"
    plain = "def plain():\n    return 1 + 2\n"
    text = "\n\n".join((source('"""Adds 1 + 1."""\nx: tl.int32 = 7'), other, plain))
    changes = {mutant.id for mutant in mutants("aiter.small", text)}
    assert {name.split(":")[1] for name in changes} == {"8", "13"}


TWO_ON_A_LINE = source("x = f(a + b, a + c)\ny = tl.load(\n    a,  # < the pointer\n    mask=b < c,\n)")


def test_ids_are_unique_stable_and_say_where_and_what() -> None:
    found = mutants("aiter.ops.small", TWO_ON_A_LINE)
    names = [mutant.id for mutant in found]
    assert len(set(names)) == len(names)
    assert names == [mutant.id for mutant in mutants("aiter.ops.small", TWO_ON_A_LINE)]
    assert [name for name in names if ":arithmetic:" in name] == [
        "small.py:7:arithmetic:-",
        "small.py:7:arithmetic:-#2",
    ]
    assert "small.py:10:comparison:<=" in names, "the line is that of the change, not of its statement"


def test_a_mutant_is_its_source_but_for_one_change_and_parses() -> None:
    for mutant in mutants("aiter.small", TWO_ON_A_LINE):
        ast.parse(mutant.applied(TWO_ON_A_LINE))
        assert mutant.applied(TWO_ON_A_LINE) != TWO_ON_A_LINE
        if mutant.operator == "comparison":
            assert mutant.diff(TWO_ON_A_LINE)[0] == "-         mask=b < c,"
    texts = [mutant.applied(TWO_ON_A_LINE) for mutant in mutants("aiter.small", TWO_ON_A_LINE)]
    assert len(set(texts)) == len(texts), "no two are alike"


def test_text_that_is_not_ascii_is_changed_at_the_right_place() -> None:
    assert changed('x = f("Größe — µ", a < b)', "comparison") == [
        'x = f("Größe — µ", a <= b)',
        'x = f("Größe — µ", a >= b)',
    ]


def test_the_lines_of_a_mutant_are_those_of_its_statement_or_of_its_header() -> None:
    text = source("if a < b:\n    x = f(\n        a + 1,\n    )\n    y = 2")

    def lines(named: str) -> tuple[int, int]:
        (found,) = [mutant for mutant in mutants("aiter.small", text) if mutant.id == named]
        return found.lines

    assert lines("small.py:7:comparison:<=") == (7, 7)
    assert lines("small.py:9:term:left") == (8, 10)


def test_a_digest_changes_with_the_line_and_with_the_change_but_not_with_what_is_around() -> None:
    def digest(body: str, named: str) -> str:
        text = source(body)
        (found,) = [mutant for mutant in mutants("aiter.small", text) if mutant.id.endswith(named)]
        return found.digest(text)

    one = digest("x = a + b", "arithmetic:-")
    assert one == digest("y = c\nx = a + b", "8:arithmetic:-")
    assert one != digest("x = a + c", "arithmetic:-")
    assert len({digest("x = a < b", end) for end in (":<=", ":>=")}) == 2


def test_mutants_are_in_the_order_of_their_lines() -> None:
    found: list[Mutant] = mutants("aiter.small", TWO_ON_A_LINE)
    lines = [int(mutant.id.split(":")[1]) for mutant in found]
    assert lines == sorted(lines)
