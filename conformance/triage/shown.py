"""An attribution, as a person should read it."""

from collections.abc import Iterator

from conformance.case import Case
from conformance.failure import among
from conformance.triage.attribution import Attribution, Explanation

MOST_ALIKE = 4
"""So many causes that a case cannot tell apart are named, and the rest counted."""

MOST_SHOWN = 3
"""Of those that explain an output, or a part of it."""

NOTHING = "none explains it"


def looks(case: Case, found: Attribution) -> str:
    """In one line: the best explanation, or "" where there is none."""
    return _said(case, found.explains[0]) if found.explains else ""


def lines(case: Case, found: Attribution) -> Iterator[tuple[str, str]]:
    """The words and lines of an attribution: what explains the output, or a part of it; and how many were asked."""
    for each in found.explains[:MOST_SHOWN]:
        yield "looks", _said(case, each)
        if each.alike:
            others = [other.says for other in each.alike[:MOST_ALIKE]]
            more = f", and {len(each.alike) - MOST_ALIKE} more" if len(each.alike) > MOST_ALIKE else ""
            yield "or", f"as if {'; or as if '.join(others)}{more}: cannot be told apart by this case"
    if not found.explains:
        yield "looks", f"like none of {found.asked} mistakes: {NOTHING}"
        for each in found.partly[:MOST_SHOWN]:
            worse = f", and makes {each.worse:.0%} of the others wrong" if each.worse >= 0.005 else ""
            yield "partly", f"{_said(case, each)}{worse}"
    left_out = f"; {found.left_out} were left out for want of time (--seconds)" if found.left_out else ""
    yield "asked", f"{found.asked} mistakes in {found.seconds:.1f} s{left_out}"


def _said(case: Case, each: Explanation) -> str:
    said = f"as if {each.says}"
    if len(each.sequences) < sum(m > 0 for m in case.query_lens):
        said += f", in {among('sequence', set(each.sequences), set(range(case.batch)), case.batch)}"
    share = "all" if each.share == 1.0 else f"{min(each.share, 0.99):.0%}"
    return f"{said}: explains {share} of the error"
