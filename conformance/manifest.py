"""Tiers: committed lists of case ids, one a line."""

from importlib.resources import files

from conformance.case import BadCase, Case

TIERS = ("smoke",)


class BadTier(Exception):
    """A tier that does not exist, or a line in its manifest that is no case."""


def cases(tier: str) -> list[Case]:
    """The cases of a tier, in the order of its manifest. Raises BadTier."""
    if tier not in TIERS:
        raise BadTier(f"unknown tier {tier!r}: there is {', '.join(TIERS)}")
    text = files("conformance").joinpath("manifests", f"{tier}.txt").read_text()
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if word := line.split("#")[0].strip():
            try:
                found.append(Case.parse(word))
            except BadCase as e:
                raise BadTier(f"{tier}.txt, line {number}: {e}") from e
    return found
