"""Which keys a query sees: causal or not, where the diagonal lies, how far a window reaches."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from conformance.case import DECODE
from conformance.triage.counterfactuals import Counterfactual, Variant, once
from conformance.triage.question import OPEN, Question, Sides


def _causal(question: Question) -> bool:
    return question.case.causal


def _not_causal(question: Question) -> bool:
    return not question.case.causal


def _left(question: Question) -> bool:
    return question.case.window[0] >= 0


def _right(question: Question) -> bool:
    return question.case.window[1] >= 0


def _every(question: Question, causal: bool) -> Question:
    return replace(question, causal=(causal,) * question.case.batch)


def _diagonal(by: Callable[[int, int], int]) -> Callable[[Question], Iterable[Variant]]:
    """The causal bound of m queries over n keys so many keys too far right."""

    def change(question: Question) -> Question:
        pairs = zip(question.lens, question.case.query_lens, strict=True)
        return replace(question, bounds=tuple(by(n, m) for n, m in pairs))

    return once(change)


def _window(of: Callable[[Sides], Sides]) -> Callable[[Question], Iterable[Variant]]:
    return once(lambda question: replace(question, window=of(question.window)))


def _as_wide_as_the_draft(question: Question) -> Question:
    left, right = question.window
    return replace(question, window=(left + max(question.case.query_lens) - 1, right))


def _ends_before_the_query(question: Question) -> Question:
    return replace(_every(question, True), bounds=(-1,) * question.case.batch)


def _new_tokens_causal(question: Question) -> Question:
    """The context is all seen; of the new tokens each sees those up to itself."""
    return replace(question, causal=tuple(kind != DECODE for kind in question.case.kinds))


TABLE = (
    Counterfactual(
        name="causal",
        says="a causal mask were applied, though the case has none",
        applies=_not_causal,
        change=once(lambda question: _every(question, True)),
    ),
    Counterfactual(
        name="not causal",
        says="there were no causal mask",
        applies=_causal,
        change=once(lambda question: _every(question, False)),
    ),
    Counterfactual(
        name="prompts causal",
        says="sequences that extend or prefill were causal, and only those",
        applies=lambda question: _not_causal(question) and len(set(question.case.kinds)) > 1,
        change=once(_new_tokens_causal),
        rank=1,
    ),
    Counterfactual(
        name="diagonal top left",
        says="the causal diagonal began at the first key (top left), not at the first of the last m keys",
        applies=_causal,
        change=_diagonal(lambda n, m: m - n),
    ),
    Counterfactual(
        name="diagonal + 1",
        says="each query saw one key past its own",
        applies=_causal,
        change=_diagonal(lambda n, m: 1),
    ),
    Counterfactual(
        name="diagonal - 1",
        says="each query stopped one key before its own",
        applies=_causal,
        change=_diagonal(lambda n, m: -1),
    ),
    Counterfactual(
        name="window ignored",
        says="there were no window",
        applies=lambda question: _left(question) or _right(question),
        change=_window(lambda _: (OPEN, OPEN)),
    ),
    Counterfactual(
        name="window left ignored",
        says="the window were open to the left",
        applies=_left,
        change=_window(lambda sides: (OPEN, sides[1])),
        rank=1,
    ),
    Counterfactual(
        name="window right ignored",
        says="the window were open to the right",
        applies=_right,
        change=_window(lambda sides: (sides[0], OPEN)),
        rank=1,
    ),
    Counterfactual(
        name="window left + 1",
        says="the window reached one key too far to the left",
        applies=_left,
        change=_window(lambda sides: (sides[0] + 1, sides[1])),
    ),
    Counterfactual(
        name="window left - 1",
        says="the window were one key short on the left",
        applies=_left,
        change=_window(lambda sides: (sides[0] - 1, sides[1])),
    ),
    Counterfactual(
        name="window right + 1",
        says="the window reached one key too far to the right",
        applies=_right,
        change=_window(lambda sides: (sides[0], sides[1] + 1)),
    ),
    Counterfactual(
        name="window right - 1",
        says="the window were one key short on the right",
        applies=_right,
        change=_window(lambda sides: (sides[0], sides[1] - 1)),
    ),
    Counterfactual(
        name="window ends at the query",
        says="the window's right side were 0",
        applies=lambda question: question.case.window[1] != 0 and _left(question),
        change=_window(lambda sides: (sides[0], 0)),
        rank=1,
    ),
    Counterfactual(
        name="open side taken for a number",
        says="the window's open right side, which is written -1, were a number: the query's own key is not seen",
        applies=lambda question: _left(question) and not _right(question),
        change=once(_ends_before_the_query),
    ),
    Counterfactual(
        name="window sides swapped",
        says="the window's left side were its right",
        applies=lambda question: question.case.window[0] != question.case.window[1],
        change=_window(lambda sides: (sides[1], sides[0])),
    ),
    Counterfactual(
        name="window of the first query",
        says="the window were as much wider on the left as the draft is long",
        applies=lambda question: _left(question) and max(question.case.query_lens) > 2,
        change=once(_as_wide_as_the_draft),
    ),
)
