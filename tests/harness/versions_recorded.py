"""Records of made-up versions, for tests of what is made from records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.check import Check
from conformance.plan import Plan
from conformance.record import Writer, digest
from conformance.shard import Shard

PLAIN = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"
SOFTCAP = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-softcap30-packed-random"
SHORT = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+3-packed-random"
DRAFT = "decode-noncausal-bf16-b2-q4-h16:2-d64-p16-kv100+37-packed-random"
WIDE = "decode-noncausal-bf16-b2-q4-h16:2-d64-p32-kv100+37-packed-random"
TWICE = f"repeated/{PLAIN}"

PASS = {"status": "PASS", "path": "unified", "bound": 0.5, "noise": 0.9, "row_noise": 1.5}
WRONG = {
    "status": "MISMATCH",
    "path": "kvcache",
    "reason": "an element exceeds its error bound",
    "evidence": "reads key 31 instead of key 37",
    "bound": 1990.0,
    "noise": 5014.0,
    "row_noise": 27080.0,
}
REFUSED = {"status": "UNSUPPORTED", "reason": "no softcap"}
DECLARED = {"status": "ERROR", "reason": "The kernel takes none", "issue": "docs/findings.md#limits",
            "entry": "a.toml, entry 1"}  # fmt: skip
GAP = {"status": "ERROR", "reason": "AssertionError: no", "expected": DECLARED}
CLOSED = PASS | {"expected": DECLARED}
NOT_RUN = {"status": "NOT RUN", "reason": "no GPU"}

Results = Mapping[str, Mapping[str, Any]]


def written(
    folder: Path, name: str, results: Results, version: str = "0.1.16", target: str = "interpreter:gfx942", *,
    title: str = "tier smoke", cut: bool = False, shard: str | None = None, planned: Sequence[str] = (),
    deselected: Sequence[str] = (), commit: str = "abcdef0123", device: str = "", backend: str = "aiter",
) -> Path:  # fmt: skip
    """A record of these results by check; `planned` and `deselected` are checks without one."""
    checks = [Check.parse(check) for check in (*results, *planned, *deselected)]
    plan = Plan(title, checks, Shard.parse(shard) if shard else None)
    writer = Writer(folder / name)
    run = {"plan": plan.recorded(), "backend": backend,
           "options": ["--backend", backend, "--target", target, "--aiter", f"aiter.git@v{version}", "--tier", "smoke"],
           "aiter": {"version": version, "commit": commit, "origin": "repository"}}  # fmt: skip
    writer.header(len(plan.checks) - len(deselected), run, {"target": target} | ({"device": device} if device else {}))
    for check, result in results.items():
        relation, _, case = check.rpartition("/")
        related = {"relation": relation} if relation else {}
        writer.case(case=case, **related, digest=digest(Check.parse(check)), **result)
    if not cut:
        writer.footer(Counter(result["status"] for result in results.values()), 61.0)
    writer.close()
    return writer.path
