"""From the failures of a record to a few clusters, each of which is likely one defect. Pure: nothing is run.

Failures are of one cluster if

* one known finding, or declared gap, explains them; else
* they agree in their signature (status, path, kind, rows) and in the mistake that attribution names;
* one is of a relation, and the case that it is checked on fails by itself: the case explains it;
* one goes through the kernel of another cluster, among others as a mixed batch does, and looks like the same mistake;
* one goes through the kernel of a cluster of many, and has the traits with which nothing passes there: whatever else
  may be wrong with it cannot be seen behind that.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from conformance import cost, features
from conformance.check import Check
from conformance.expectations.findings import Finding
from conformance.features import Feature
from conformance.matrix import State, matrix
from conformance.matrix.cells import GRAVITY, Note
from conformance.matrix.columns import Column
from conformance.matrix.paths import NONE, paths, taken_by
from conformance.record import fails
from conformance.status import Status
from conformance.summary import status_word
from conformance.triage.signature import Signature
from conformance.triage.traits import NONE_IN_COMMON, Common, common

MANY = 5
"""Failing cases from which on their common traits are no accident, so that others may be counted to them."""

_PLACE_IN_BATCH = re.compile(r", in (every sequence|sequences? [^:]*)(?=: explains)")


@dataclass(frozen=True, eq=False)
class Failure:
    """One failing check: its line of the record, the paths that it took or would have taken, and what explains it."""

    check: Check
    result: dict[str, Any]
    paths: tuple[str, ...]
    having: tuple[Feature, ...]
    note: Note | None = None

    @cached_property
    def signature(self) -> Signature:
        return Signature.of(self.result)

    @cached_property
    def kernels(self) -> frozenset[str]:
        """Those that gave the answers, of each call."""
        taken = {part for call in taken_by(self.result) for part in call} or {*self.paths} - {NONE}
        return frozenset(map(kernel_of, taken))

    @property
    def looks(self) -> str:
        """The mistake that attribution named, without which sequences show it; "" for none."""
        return _PLACE_IN_BATCH.sub("", self.result.get("looks", "")).partition(": explains")[0]

    @property
    def seconds(self) -> float:
        """Estimated, of its case on the interpreter."""
        return cost.seconds(self.check.case)


@dataclass(frozen=True, eq=False)
class Cluster:
    """Failures that are likely one defect's, the cheapest first."""

    failures: tuple[Failure, ...]
    common: Common = NONE_IN_COMMON

    @property
    def note(self) -> Note | None:
        """The finding, or the gap declared since, that explains it."""
        return self.candidates[0].note

    @property
    def closed(self) -> str:
        """The entry of the declared gap that closed, where that is the failure; else ""."""
        first = self.candidates[0].result
        return first["expected"]["entry"] if first["status"] == Status.PASS else ""

    @property
    def words(self) -> Counter[str]:
        """How many failures of each status; `PASS, not ERROR` is a gap that closed."""
        return Counter(status_word(failure.result) for failure in self.failures)

    @property
    def signature(self) -> Signature:
        """The commonest, of cases where there are any."""
        return Counter(failure.signature for failure in self.telling).most_common(1)[0][0]

    @property
    def paths(self) -> Counter[str]:
        return Counter("+".join(failure.paths) for failure in self.failures)

    @property
    def kernels(self) -> frozenset[str]:
        """That every failure goes through; of the commonest way where there is none."""
        shared = frozenset.intersection(*(failure.kernels for failure in self.failures))
        return shared or Counter(failure.kernels for failure in self.failures).most_common(1)[0][0]

    @property
    def looks(self) -> Counter[str]:
        """The mistakes that attribution named, and of how many."""
        return Counter(failure.looks for failure in self.failures if failure.looks)

    @property
    def candidates(self) -> list[Failure]:
        """Who can stand for all, the best first: a case, of the commonest way to fail, the cheapest."""
        own = self.signature
        return sorted(
            self.failures,
            key=lambda one: (one.check.relation is not None, one.signature != own, one.seconds, one.check.id),
        )

    @property
    def order(self) -> tuple[int, int, str]:
        """The gravest way to fail first, then the largest."""
        statuses = {Status(failure.result["status"]) for failure in self.failures}
        gravest = next((at for at, status in enumerate(GRAVITY) if status in statuses), len(GRAVITY))
        return gravest, -len(self.failures), self.failures[0].check.id

    @property
    def telling(self) -> Sequence[Failure]:
        """The cases; relations where there are only those."""
        return [failure for failure in self.failures if failure.check.relation is None] or self.failures


def kernel_of(part: str) -> str:
    """The kernel of a part of a path, as the dispatch calls it: `mha` of `extend.window.mha`, `kvcache` of `kvcache.x`.

    A part that names its step, prefill or extend, ends with the kernel; another begins with it.
    """
    first, *rest = part.split(".")
    return rest[-1] if rest and first in ("prefill", "extend") else first


def clusters(column: Column, findings: Iterable[Finding] | None = None) -> list[Cluster]:
    """Of all failures of one system that are not as declared; the gravest first, then the largest.

    Raises BadRecord for a check that this version of the suite does not know.
    """
    failing, passing = _sorted_out(column, findings)
    grouped = _grouped(failing)
    described = [replace(cluster, common=_common(cluster, passing)) for cluster in grouped]
    whole = [replace(cluster, common=_common(cluster, passing)) for cluster in _joined(described)]
    return sorted(whole, key=lambda cluster: cluster.order)


def _sorted_out(column: Column, findings: Iterable[Finding] | None) -> tuple[list[Failure], list[Failure]]:
    """What fails, and what passes."""
    came = matrix([column], findings).came[0]
    checks = {name: Check.parse(name) for name in column.results}
    ways = paths(checks, column.results)
    failing, passing = [], []
    for name, result in column.results.items():
        check = checks[name]
        note = came[name].note if came[name].state in (State.FINDING, State.GAP) else None
        one = Failure(check, result, ways[name], tuple(features.of(check)), note)
        if came[name].state is not State.NOT_RUN and fails(result):
            failing.append(one)
        elif result["status"] == Status.PASS:
            passing.append(one)
    return failing, passing


def _grouped(failing: Sequence[Failure]) -> list[Cluster]:
    """By what explains them, else by signature and looks; a relation goes where its case is."""
    groups: dict[Hashable, list[Failure]] = defaultdict(list)
    key_of_case: dict[str, Hashable] = {}
    for one in sorted(failing, key=lambda one: one.check.relation is not None):  # cases before relations
        entry = one.result["expected"]["entry"] if one.result["status"] == Status.PASS else ""
        key: Hashable = one.note or entry or (one.signature, one.looks, status_word(one.result))
        if one.check.relation is None:
            key_of_case[one.check.id] = key
        elif one.note is None:
            key = key_of_case.get(one.check.case.id, key)
        groups[key].append(one)
    return [_cluster(some) for some in groups.values()]


def _joined(some: Sequence[Cluster]) -> list[Cluster]:
    """Small clusters that nothing explains, in the large ones whose looks or traits they have."""
    left = sorted(some, key=lambda cluster: -len(cluster.failures))
    whole: list[Cluster] = []
    while left:
        large = left.pop(0)
        also = [cluster for cluster in left if cluster.note is None and _belongs(cluster, large)]
        left = [cluster for cluster in left if cluster not in also]
        whole.append(_cluster([*large.failures, *(failure for cluster in also for failure in cluster.failures)]))
    return whole


def _belongs(small: Cluster, large: Cluster) -> bool:
    if not large.kernels or not all(large.kernels <= one.kernels for one in small.failures):
        return False
    same_looks = small.signature.status == large.signature.status and {*small.looks} == {*large.looks} != set()
    cases = sum(failure.check.relation is None for failure in large.failures)
    same_traits = large.common.tells and cases >= MANY and all(large.common.holds(o.having) for o in small.failures)
    return same_looks or same_traits


def _cluster(failures: Iterable[Failure]) -> Cluster:
    return Cluster(tuple(sorted(failures, key=lambda one: (one.seconds, one.check.id))))


def _common(cluster: Cluster, passing: Iterable[Failure]) -> Common:
    """Against what passed, through the same kernels, of what tells: cases, or relations of the same names."""
    kernels, telling = cluster.kernels, cluster.telling
    related = {one.check.relation and one.check.relation.name for one in telling}
    able = [one.having for one in passing if kernels and kernels <= one.kernels
            and (one.check.relation and one.check.relation.name) in related]  # fmt: skip
    return common([one.having for one in telling], able)
