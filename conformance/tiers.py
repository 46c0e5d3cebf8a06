"""Composing the tiers: `python -m conformance.tiers` says what they cover, with `--write` it makes their manifests.

| tier | holds |
| --- | --- |
| smoke | a list picked by hand, which is kept as it is |
| core | smoke, refusals, what was found before, every boundary relation, every legal pair of levels, of steps too |
| full | core, page ids that take a cache above 2^31 elements, every legal triple of levels, of steps too |

Each holds the one before. `fuzz` has no manifest: its cases are drawn while it runs.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from conformance import manifest, realize, realize_step, step_space
from conformance.axes import AXES, BLIND, CAUSAL, CONTEXT, DTYPE, PAGE, QUERIES, space
from conformance.case import DECODE, Case
from conformance.cost import seconds
from conformance.covering import Row, cover, uncovered

BOUNDARY_QUERIES = ("1", "8", "16", "17")
"""A single token, and the drafts that are deployed."""

BOUNDARIES = (
    (("page-1", "page", "page+1", "short"), ("16", "48", "64", "256")),
    (tuple(f"{edge}{off}" for edge in ("tile", "segment") for off in ("-1", "", "+1")), ("16", "64")),
    (("511", "512", "513"), ("16", "64")),
)
"""Contexts within a key of where kernels cut the keys or change their ways, and the pages that matter to each: a tile
is a page of 16 or of 64 keys, and larger pages hold several."""

REFUSALS = (
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-softcap30-packed-random",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-alibi-packed-random",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-sinks-packed-random",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-cache.e4m3fn-packed-random",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-cache.e4m3fnuz-packed-random",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-q.e4m3fn-packed-random",
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-q.e4m3fnuz-packed-random",
    "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-q.e4m3fn-packed-random",
    "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-q.e4m3fnuz-packed-random",
    "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-cache.e4m3fn-descale.head-packed-random",
    "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-cache.e4m3fnuz-descale.head-packed-random",
    "prefill-causal-bf16-b2-q40+33-h4:2-d64-p16-kv40+33-softcap30-t1-packed-random",
    "prefill-noncausal-bf16-b2-q40+33-h4:2-d64-p16-kv40+33-alibi-t1-packed-random",
    "prefill-causal-bf16-b2-q40+33-h4:2-d64-p16-kv40+33-w0:inf-t1-packed-random",
    "extend-causal-bf16-b2-q40+33-h4:2-d64-p16-kv150+90-softcap30-t8-packed-random",
    "extend-causal-bf16-b2-q40+33-h4:2-d64-p16-kv150+90-alibi-t8-packed-random",
    "extend-causal-bf16-b2-q40+33-h4:2-d64-p16-kv150+90-cache.e4m3fn-q.e4m3fn-t8-packed-random",
    "extend-causal-bf16-b2-q40+33-h4:2-d64-p16-kv150+90-cache.e4m3fnuz-q.e4m3fnuz-t8-packed-random",
    "mixed-noncausal-bf16-b3-q8+40+33-h4:2-d64-p16-kv90+150+33-sinks-t8-packed-random",
)
"""What no kernel of AITER's has that the dispatch takes for it: a backend refuses it, or is right."""

HUGE = (
    "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-pages.huge-packed-needle",
    "decode-noncausal-bf16-b2-q8-h8:1-d128-p64-kv100+300-pages.huge-contiguous-needle",
    "decode-causal-bf16-b2-q8-h4:2-d64-p16-kv100+37-pages.huge-packed-needle",
    "decode-causal-bf16-b2-q1-h8:1-d128-p64-kv700+37-pages.huge-contiguous-needle",
)
"""Caches of more than 2^31 elements: 4 GiB for two packed ones in bfloat16, 8 GiB for two that lie apart."""

FOUND = (
    "decode-causal-bf16-b1-q4-h2:1-d64-p16-kv530-packed-shifted",
    "decode-causal-bf16-b1-q8-h4:2-d64-p16-kv100-w32:inf-packed-shifted",
    "decode-causal-bf16-b2-q8-h4:2-d64-p64-kv100+37-packed-poison.tails",
    "decode-causal-bf16-b2-q4-h8:2-d64-p16-kv100+37-alibi-sinks-packed-random",
    "decode-causal-bf16-b2-q8-h4:2-d64-p16-kv100+37-max4096-packed-poison.tails",
    "decode-causal-bf16-b2-q8-h4:2-d64-p16-kv100+37-max4096-packed-shifted",
    "decode-causal-bf16-b1-q5-h6:2-d80-p48-kv145-max4096-contiguous-random",
)
"""What showed a defect once (docs/findings.md), kept to say when it is gone."""

OVERHEAD = 1.0
"""Seconds by which a case is dear at least: few dear ones against many cheap ones."""

DEAR = 6.0
"""A case of `core` that costs more is looked at again: are there cheaper levels that are as good?"""

BLIND_SECONDS = 2.0
"""A case in which kernels are known to fail shows nothing else: as bad as one that takes so much longer."""


def boundaries() -> list[dict[str, str]]:
    """The part of a case that each boundary relation asks for, those that no case can have left out.

    Without padding and window, which would hide what happens at the boundary.
    """
    every = (
        {"causal": causal, "context": context, "page": page, "queries": queries, "padding": "none", "window": "none"}
        for contexts, pages in BOUNDARIES
        for page in pages
        for queries in BOUNDARY_QUERIES
        for context in contexts
        for causal in CAUSAL.levels
    )
    return [part for part in every if space().complete(space().assignment(part)) is not None]


def _alternating(parts: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Boundary relations in turn with inputs of either kind, needles or random, and either dtype."""
    for part in parts:
        turn = sum(axis.levels.index(part[axis.name]) for axis in (CONTEXT, PAGE, QUERIES))
        dtype = DTYPE.levels[(turn // 2 + CAUSAL.levels.index(part["causal"])) % 2]
        yield part | {"regime": ("needle", "random")[turn % 2], "dtype": dtype}


def core() -> list[Case]:
    """Every boundary relation and every legal pair of levels."""
    by_hand = [*manifest.cases("smoke"), *map(Case.parse, (*REFUSALS, *FOUND))]
    made = cover(space(), 2, covered=rows(by_hand), required=_alternating(boundaries()), cost=_cost, dear=DEAR)
    return _distinct([*by_hand, *map(realize.case, made), *_steps(by_hand, 2)])


def full(core: Iterable[Case]) -> list[Case]:
    """Every legal triple of levels."""
    by_hand = [*core, *map(Case.parse, HUGE)]
    made = cover(space(), 3, covered=rows(by_hand), cost=_cost)
    return _distinct([*by_hand, *map(realize.case, made), *_steps(by_hand, 3)])


def _steps(by_hand: Iterable[Case], strength: int) -> Iterator[Case]:
    """Steps that do more than decode, so that every legal combination of so many of their levels is in one.

    What a kernel may serve is covered by itself first: a case that it refuses shows nothing else.
    """
    served, every = step_space.served(), step_space.space()
    covered = list(step_rows(by_hand))
    made = cover(served, strength, covered=[row for row in covered if step_space.may_be_served(row)])
    refused = cover(every, strength, covered=[*covered, *map(_row, made)])
    return map(realize_step.case, [*made, *refused])


def _row(levels: realize.Levels) -> Row:
    return {name: frozenset({level}) for name, level in levels.items()}


def _cost(levels: realize.Levels) -> float:
    blind = sum(together <= set(levels.values()) for together in BLIND)
    return OVERHEAD + seconds(realize.case(levels)) + BLIND_SECONDS * blind


def _distinct(cases: Iterable[Case]) -> list[Case]:
    return list(dict.fromkeys(cases))


def rows(cases: Iterable[Case]) -> Iterator[Row]:
    """What cases that the axes can make cover: their levels, those that the axes know."""
    known = {axis.name: frozenset(axis.levels) for axis in AXES}
    for case in cases:
        if case.step != DECODE or case.q_dtype or case.per_head_descales or _is_refused(case):
            continue  # what the axes do not have covers nothing of theirs
        yield {name: some & known[name] for name, some in realize.levels(case).items()}


def step_rows(cases: Iterable[Case]) -> Iterator[Row]:
    """What cases cover of the levels of steps."""
    return (levels for case in cases if not _is_refused(case) and (levels := realize_step.levels(case)) is not None)


def _is_refused(case: Case) -> bool:
    """Single tokens beside a sequence without a query: the dispatch declines them, so that they show nothing else."""
    decoded = {m for m, kind in zip(case.query_lens, case.kinds, strict=True) if kind == DECODE}
    return case.causal and decoded == {0, 1}


def missing_boundaries(cases: Iterable[Case]) -> list[dict[str, str]]:
    """The boundary relations that none of the cases has."""
    covered = list(rows(cases))
    return [
        part for part in boundaries() if not any(all(level in row[k] for k, level in part.items()) for row in covered)
    ]


# -- manifests ---------------------------------------------------------------------------------------------------------


def text(tier: str, cases: Iterable[Case]) -> str:
    """A manifest: cases of the same specialisation of a kernel stand together."""
    lines = [f"# The {tier} tier: see conformance/tiers.py, and write it with python -m conformance.tiers --write."]
    for (causal, dtype, dim), some in groupby(sorted(cases, key=_specialisation), lambda c: _specialisation(c)[:3]):
        lines += ["", f"# {'causal' if causal else 'non-causal'}, {dtype}, head dimension {dim}"]
        lines += [case.id for case in some]
    return "\n".join(lines) + "\n"


def _specialisation(case: Case) -> tuple:
    return case.causal, case.dtype, case.head_dim, case.page_size, case.gqa_ratio, case.kv_heads, case.id


def main(arguments: list[str] | None = None) -> int:
    """Say what the tiers hold; with --write, make the manifests first. Returns 1 if something is missing, else 0."""
    parser = argparse.ArgumentParser(prog="python -m conformance.tiers", description="What the tiers hold.")
    parser.add_argument("--write", action="store_true", help="make conformance/manifests/core.txt and full.txt again")
    if parser.parse_args(arguments).write:
        made = {"core": core()}
        made["full"] = full(made["core"])
        for tier, cases in made.items():
            (Path(__file__).parent / "manifests" / f"{tier}.txt").write_text(text(tier, cases))
    lacking, steps = 0, step_space.space()
    for tier in ("smoke", "core", "full"):
        cases = manifest.cases(tier)
        lacks = {
            "boundary relations": missing_boundaries(cases) if tier != "smoke" else [],
            "legal pairs": uncovered(space(), rows(cases), 2) if tier != "smoke" else [],
            "legal triples": uncovered(space(), rows(cases), 3) if tier == "full" else [],
            "legal pairs of steps": uncovered(steps, step_rows(cases), 2) if tier != "smoke" else [],
            "legal triples of steps": uncovered(steps, step_rows(cases), 3) if tier == "full" else [],
        }
        lacking += sum(map(len, lacks.values()))
        minutes = sum(map(seconds, cases)) / 60
        lacks_text = ", ".join(f"lacks {len(some)} {what}" for what, some in lacks.items() if some) or "complete"
        print(f"{tier}: {len(cases)} cases, about {minutes:.0f} CPU minutes on the interpreter; {lacks_text}")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
