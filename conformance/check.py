"""Checks: what a run plans, executes and records, one by one."""

import hashlib
from dataclasses import dataclass

from conformance import manifest
from conformance.case import DECODE, BadCase, Case
from conformance.graphs import GRAPHS, GraphRelation
from conformance.relations import RELATIONS, Relation

EVERY_RELATION: dict[str, Relation | GraphRelation] = {**RELATIONS, **GRAPHS}

OF_A_TIER = {"smoke": 0, "core": 6, "full": 24}
"""On so many of a tier's own decodes each relation is tried, half of them causal, and on a third as many of its other
steps, beside those of `relations.txt` and `graphs.txt`."""


@dataclass(frozen=True)
class Check:
    """A case, judged by the oracle; or, with a relation, by another answer. `Check.parse(check.id) == check`."""

    case: Case
    relation: Relation | GraphRelation | None = None

    @property
    def id(self) -> str:
        """The case's id; before it, the relation's name and a stroke."""
        return f"{self.relation.name}/{self.case.id}" if self.relation else self.case.id

    @classmethod
    def parse(cls, text: str) -> "Check":
        """The check that an id names. Raises BadCase."""
        name, stroke, case_id = text.rpartition("/")
        if not stroke:
            return cls(Case.parse(text))
        if name not in EVERY_RELATION:
            raise BadCase(f"no relation is called {name!r}: there are {', '.join(EVERY_RELATION)}")
        relation, case = EVERY_RELATION[name], Case.parse(case_id)
        if not relation.applies(case):
            raise BadCase(f"relation {name} needs {relation.needs}, which {case_id} has not")
        return cls(case, relation)

    def runs_on(self, kind: str) -> bool:
        """Can a target of that kind say anything about it? Only a GPU captures graphs."""
        return not isinstance(self.relation, GraphRelation) or kind in self.relation.on


def of_tier(tier: str) -> list[Check]:
    """Everything that a tier checks, on one target or another: its cases, then relations. Raises BadTier.

    A group of cases has no relations.
    """
    cases = manifest.cases(tier)
    if tier in manifest.GROUPS:
        return [*map(Check, cases)]
    captured = [
        Check(case, relation)
        for case in manifest.entries("graphs.txt", Case.parse)
        for relation in GRAPHS.values()
        if relation.applies(case)
    ]
    decodes = drawn([case for case in cases if case.step == DECODE], OF_A_TIER[tier])
    steps = drawn([case for case in cases if case.step != DECODE], OF_A_TIER[tier] // 3)
    related = [*manifest.entries("relations.txt", Check.parse), *captured, *decodes, *steps]
    return [*map(Check, cases), *dict.fromkeys(related)]


def shown_on(kind: str, checks: list[Check]) -> list[Check]:
    """Of the checks of a tier those that targets of that kind can show: the others are no part of it there."""
    if kind == "compile":
        return to_build(checks, chosen=False)
    return [check for check in checks if check.runs_on(kind)]


def to_build(checks: list[Check], *, chosen: bool) -> list[Check]:
    """The cases among the checks: where no kernel runs there are no answers that a relation could compare.

    Raises BadCase for a relation that somebody chose.
    """
    related = [check for check in checks if check.relation]
    if chosen and related:
        raise BadCase(f"a compile target has no answers, so no relation between them can be checked: {related[0].id}")
    return [check for check in checks if not check.relation]


def drawn(cases: list[Case], count: int) -> list[Check]:
    """`count` cases for each relation, causal and not in equal parts: those whose hash is lowest.

    So they are as good as drawn by lot, stay what they are when others join the tier, and come out the same everywhere.
    """
    drawn = []
    for relation in EVERY_RELATION.values():
        for causal in (False, True):
            able = [Check(case, relation) for case in cases if case.causal is causal and relation.applies(case)]
            drawn += sorted(able, key=lambda check: hashlib.sha256(check.id.encode()).digest())[: count // 2]
    return drawn
