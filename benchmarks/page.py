"""How heavy a page of ten versions is, and how long it takes: `python benchmarks/page.py FOLDER` writes it there.

The records are made up: checks of the full tier, of which the older versions fail more. Their figures, and the length
of what they say of failures, are like those of real ones. Kernels change in every third version: in between a check
keeps its figures, as it does where the same code runs on the same inputs.
"""

import sys
from collections import Counter
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from conformance import record
from conformance.check import Check, of_tier
from conformance.plan import Plan
from conformance.report.html import html
from conformance.report.page import page

VERSIONS, CHECKS = 10, 4_000
MOST_FAILING, LEAST_FAILING = 0.13, 0.02
"""Of the oldest version and of the newest; 0.1.15 fails 13% of the smoke tier."""


def written(folder: Path, number: int, checks: list[Check]) -> Path:
    """A record of a version that never was."""
    failing = MOST_FAILING + (LEAST_FAILING - MOST_FAILING) * number / (VERSIONS - 1)
    writer = record.Writer(folder / f"{number}.jsonl")
    run = {"plan": Plan("tier full", checks).recorded(), "backend": "aiter",
           "options": ["--backend", "aiter", "--target", "gpu", "--aiter", f"aiter.git@v0.1.{number}"],
           "aiter": {"version": f"0.1.{number}", "commit": f"{number}" * 40}}  # fmt: skip
    writer.header(len(checks), run, {"target": "gpu:gfx942", "device": "AMD Instinct MI300X"})
    counts: Counter[str] = Counter()
    for check in checks:
        result = _result(Random(check.id), number // 3, failing)
        counts[result["status"]] += 1
        relation = {"relation": check.relation.name} if check.relation else {}
        writer.case(case=check.case.id, **relation, digest=record.digest(check), **result)
    writer.footer(counts, 600.0)
    writer.close()
    return writer.path


def _result(random: Random, kernel: int, failing: float) -> dict[str, Any]:
    drawn = random.random()
    change = Random(f"{random.random()} {kernel}")
    figures = {name: float(f"{random.uniform(0.01, most) * change.uniform(0.95, 1.05):.4g}")
               for name, most in (("bound", 0.9), ("noise", 1.1), ("row_noise", 3), ("lse", 0.5))}  # fmt: skip
    path = random.choice(["unified", "kvcache", "unified+prefill.mha"])
    if drawn < failing:
        key, sequence = random.randrange(999), random.randrange(8)
        worst = {name: float(f"{value * 10 ** change.uniform(1, 5):.4g}") for name, value in figures.items()}
        evidence = f"reads 83% of key {key} of sequence {sequence}, KV head 0, instead of key {key + 6} of sequence 1"
        said = {"reason": "an element exceeds its error bound", "evidence": evidence}
        return {"status": "MISMATCH", **said, "path": path, **worst}
    if drawn < failing + 0.05:
        return {"status": "UNSUPPORTED", "reason": "no softcap"}
    return {"status": "PASS", "path": path, **figures}


def main(folder: Path) -> None:
    """Make the records and the page, and say what it took."""
    checks = of_tier("full")[:CHECKS]
    paths = [written(folder, number, checks) for number in range(VERSIONS)]
    started = perf_counter()
    made = page(paths)
    between = perf_counter()
    text = html(made).encode()
    ended = perf_counter()
    (folder / "page.html").write_bytes(text)
    print(f"{VERSIONS} versions of {len(checks)} checks, {len(made.failures)} of which fail somewhere:")
    print(f"{len(text) / 1e6:.2f} MB, made in {between - started:.1f} s and written in {ended - between:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
