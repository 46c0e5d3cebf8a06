"""A verdict that is not a pass, as a person should read it."""

from torch import Tensor

from conformance.case import Case
from conformance.expectations import Expectation
from conformance.graphs import GraphRelation
from conformance.judge import Verdict, Worst, locate
from conformance.relations import Relation
from conformance.status import Status


def text(
    case: Case, verdict: Verdict, name: str, target: str, repro: str, relation: Relation | GraphRelation | None = None
) -> str:
    """What is wrong, where, and the command that shows it again."""
    path = f"{verdict.path}, " if verdict.path else ""
    check = f"{relation.name}/{case.id}" if relation else case.id
    lines = [f"{verdict.status}  {name} ({path}{target})   {check}"]
    if verdict.reason:
        lines.append(f"  what    {verdict.reason}")
    if relation:
        lines.append(f"  against {relation.says}: the answers must be {relation.demand}")
    if verdict.worst is not None:
        lines.append(f"  worst   {_worst(verdict.worst, verdict, 'want' if relation is None else 'the other')}")
    if verdict.wrong is not None:
        lines.append(f"  where   {where(case, verdict.wrong)}")
    if verdict.evidence:
        lines.append(f"  key     {verdict.evidence}")
    if verdict.looks:
        lines.append(f"  looks   {verdict.looks}")
    return "\n".join([*lines, f"  repro   {repro}"])


def contradicted(text: str, expected: Expectation, status: Status) -> str:
    """The text of a verdict, and, before its last line, the command, what it means that another was expected."""
    *lines, repro = text.splitlines()
    return "\n".join([*lines, f"  entry   {expected.contradicted_by(status)}", repro])


def _worst(worst: Worst, verdict: Verdict, other: str) -> str:
    what = "lse" if worst.dim is None else "out"
    dim = "" if worst.dim is None else f", dim {worst.dim}"
    place = f"{what}[seq {worst.sequence}, query {worst.query}, head {worst.head}{dim}]"
    shown = f"{place} = {worst.got:.4g}, {other} {worst.want:.4g}"
    if verdict.figures is None:
        return shown
    error = f"|err| {abs(worst.got - worst.want):.1e} = {worst.ratio:.3g} x bound"
    return f"{shown}   {error}; noise ratio {verdict.figures.noise:.3g}, worst row {verdict.figures.row_noise:.3g}"


def where(case: Case, wrong: Tensor) -> str:
    """Which sequences, queries and heads have wrong rows; `wrong` is bool [T, Hq]."""
    tokens = [locate(case, int(t)) for t in wrong.any(1).nonzero()[:, 0]]
    heads = [int(h) for h in wrong.any(0).nonzero()[:, 0]]
    return "; ".join(
        (
            among("sequence", {b for b, _ in tokens}, {b for b, m in enumerate(case.query_lens) if m}, case.batch),
            among("query", {i for _, i in tokens}, set(range(m := max(case.query_lens))), m),
            among("head", set(heads), set(range(case.q_heads)), case.q_heads),
            f"{float(wrong.double().mean()):.1%} of all rows",
        )
    )


def which_rows(case: Case, wrong: Tensor) -> str:
    """What kind of rows are wrong, whatever their number: some that see keys, else some that see none.

    The latter are rows of sequences with fewer keys than queries, or of empty ones, if no others. `wrong` is bool
    [T, Hq].
    """
    tokens = [locate(case, int(t)) for t in wrong.any(1).nonzero()[:, 0]]
    if any(_sees_a_key(case, b, i) for b, i in tokens):
        return "with keys"
    return "without a key" if any(case.seq_lens[b] for b, _ in tokens) else "of an empty sequence"


def _sees_a_key(case: Case, b: int, i: int) -> bool:
    """Does query `i` of sequence `b`, which stands at key n - m + i, see one of the keys 0 to n - 1?"""
    stands, (left, right) = case.seq_lens[b] - case.query_lens[b] + i, case.window
    last = case.seq_lens[b] - 1
    right = 0 if case.causal else right
    first = 0 if left < 0 else max(0, stands - left)
    return first <= (last if right < 0 else min(last, stands + right))


def among(noun: str, some: set[int], every: set[int], count: int) -> str:
    """`every head`, or `heads 8-15 of 32`."""
    if some == every:
        return f"every {noun}"
    plural = {"query": "queries"}.get(noun, noun + "s")
    return f"{noun if len(some) == 1 else plural} {_ranges(sorted(some))} of {count}"


def _ranges(numbers: list[int]) -> str:
    """`0, 8-15` for [0, 8, 9, ..., 15]; at most six ranges."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:6]]
    return ", ".join(shown) + (", ..." if len(runs) > 6 else "")
