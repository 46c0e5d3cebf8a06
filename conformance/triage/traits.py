"""What failing checks have in common, and passing ones lack: in features, so in a user's words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from conformance.features import FEATURES, Feature

MOST = 3
"""More than so many traits describe these checks, and no defect."""

MOST_OF_THEM = 0.9
"""The share of the failing checks that must have a trait, where none that all have tells anything."""

WORTH = 0.05
"""A trait that tells less than this share of the passing checks from the failing ones says nothing."""


@dataclass(frozen=True)
class Trait:
    """A feature that all of some checks have, or that none of them has."""

    feature: Feature
    present: bool

    def holds(self, having: Collection[Feature]) -> bool:
        """Of a check with these features."""
        return (self.feature in having) is self.present

    def __str__(self) -> str:
        return self.feature.name if self.present else f"not {self.feature.name}"


@dataclass(frozen=True)
class Common:
    """The traits of failing checks that tell most passing ones from them, the most telling first."""

    traits: tuple[Trait, ...] = ()
    without: int = 0
    """So many of the failing checks lack one of them."""
    passing: int = 0
    """So many checks passed that could have shown the same."""
    alike: int = 0
    """So many of those have all of the traits as well."""

    @property
    def tells(self) -> bool:
        """Does no check pass that has the traits, so that whatever has them fails?"""
        return bool(self.traits) and self.passing > 0 and not self.alike and not self.without

    def holds(self, having: Collection[Feature]) -> bool:
        """Has a check with these features all of the traits?"""
        return all(trait.holds(having) for trait in self.traits)


NONE_IN_COMMON = Common()


def common(failing: Sequence[Collection[Feature]], passing: Sequence[Collection[Feature]]) -> Common:
    """What the checks with the features `failing` have in common and those with `passing` lack.

    Greedy: the trait that the most of the passing checks lack, then the one that the most of the rest lack. Of those
    that tell as many, one that is there goes before one that is absent.
    """
    for share in (1.0, MOST_OF_THEM):
        chosen = _telling(_shared(failing, share), passing)
        if chosen:
            break
    without, alike = (
        sum(not all(trait.holds(having) for trait in chosen) for having in failing),
        sum(all(trait.holds(having) for trait in chosen) for having in passing),
    )
    return Common(tuple(chosen), without, len(passing), alike)


def _shared(failing: Sequence[Collection[Feature]], share: float) -> list[Trait]:
    """Traits of so many of the failing checks, those that are there first."""
    traits = [Trait(feature, present) for present in (True, False) for feature in FEATURES]
    return [trait for trait in traits if sum(map(trait.holds, failing)) >= share * len(failing)]


def _telling(shared: Sequence[Trait], passing: Sequence[Collection[Feature]]) -> list[Trait]:
    """Of the traits a few, each of which the most of the passing checks lack that have those before it."""
    chosen: list[Trait] = []
    left = list(passing)
    while left and len(chosen) < MOST:
        best = max(shared, key=lambda trait: sum(not trait.holds(having) for having in left))
        kept = [having for having in left if best.holds(having)]
        if len(left) - len(kept) < max(1, WORTH * len(passing)):
            break
        chosen.append(best)
        left = kept
    return chosen
