"""Counterfactuals: mistakes that a kernel may make, each as another question to the oracle, or as another answer of it.

A counterfactual is pure: what it asks follows from the case and its inputs alone, never from the output that it shall
explain. Where a mistake has a place that nobody knows (a tile, a split, a page), each place is a variant of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from conformance.triage.question import Question
from reference import Attention

Variant = tuple[str, Question]
"""Where or how much, in words ("" where there is nothing to say), and what is asked then."""


def always(_: Question) -> bool:
    """Any case can show it."""
    return True


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """One mistake.

    `says` completes "as if ...". `change` makes of a question others, `stored` of an exact answer [T, Hq, D] another:
    a mistake has one or the other. `rank` orders those that a case cannot tell apart: the lower is the likelier; below
    0 are those that nothing but NaN shows.
    """

    name: str
    says: str
    applies: Callable[[Question], bool] = always
    change: Callable[[Question], Iterable[Variant]] | None = None
    stored: Callable[[Question, Attention], Attention | None] | None = None
    rank: int = 0
    rounds: bool = False  # it is a matter of rounding, and makes small errors

    def variants(self, question: Question) -> Iterable[Variant]:
        """What is asked instead; nothing where the case has not what it takes."""
        if not self.applies(question):
            return ()
        return self.change(question) if self.change is not None else (("", question),)


def once(change: Callable[[Question], Question]) -> Callable[[Question], Iterable[Variant]]:
    """A mistake of one variant."""
    return lambda question: (("", change(question)),)
