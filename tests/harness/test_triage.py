"""Triage: records whose few defects are known by hand, and whole runs of the command on backends with defects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conformance import backends
from conformance.check import Check
from conformance.expectations import findings as found
from conformance.expectations.findings import Finding
from conformance.features import BY_NAME
from conformance.matrix import of_records
from conformance.outcome import Outcome
from conformance.plan import Plan
from conformance.record import Writer, digest
from conformance.system import choose
from conformance.triage.clusters import MANY, Cluster, clusters, kernel_of
from conformance.triage.commands import commands
from conformance.triage.examined import Examined, Examiner, NothingRuns
from conformance.triage.owners import owners, raised_in
from conformance.triage.traits import common
from conformance.triage.trials import Trials
from tests.harness.conftest import Done
from tests.harness.small_aiter import Checkout
from tests.harness.small_aiter import found as located

DRAFT = "decode-noncausal-bf16-b2-q4-h4:2-d64-p{page}-kv100+37-{layout}-random"
VERIFY = "decode-causal-bf16-b2-q4-h4:2-d64-p{page}-kv100+37-{layout}-random"
SHORT = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv{keys}+64-packed-random"
MIXED = "mixed-noncausal-bf16-b2-q4+20-h4:2-d64-p16-kv100+{keys}-t4-{layout}-random"

PASS = {"status": "PASS", "path": "kvcache", "bound": 0.5}
WRONG = {"status": "MISMATCH", "path": "kvcache", "reason": "an element exceeds its error bound", "rows": "with keys"}
NAN = {"status": "NONFINITE", "path": "unified", "reason": "9 elements are not finite, 9 of them NaN",
       "rows": "without a key"}  # fmt: skip
RAISED = {"status": "ERROR", "reason": "AssertionError: block 48 (a/b.py:12 in f)"}
STRIDE = "as if the stride between pages were another: explains all of the error"

Results = Mapping[str, dict[str, Any]]
RecordOf = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> RecordOf:
    """Writes a record of these results, by check; `lacking` are planned and have none."""

    def record(
        results: Results, *, backend: str = "aiter", target: str = "interpreter:gfx942", aiter: str = "",
        lacking: Sequence[str] = (),
    ) -> Path:  # fmt: skip
        checks = [Check.parse(check) for check in results]
        planned = [*checks, *map(Check.parse, lacking)]
        options = ["--backend", backend, "--target", target.partition(":")[0], *(["--aiter", aiter] if aiter else [])]
        version = {"aiter": {"version": "0.1.16", "commit": "", "origin": "repository"}} if backend == "aiter" else {}
        writer = Writer(tmp_path / "record.jsonl")
        run = {"plan": Plan("9 chosen cases", planned).recorded(), "backend": backend, "options": options, **version}
        writer.header(len(planned), run, {"target": target})
        for check in checks:
            relation = {"relation": check.relation.name} if check.relation else {}
            writer.case(case=check.case.id, **relation, digest=digest(check), **results[check.id])
        writer.footer(Counter(result["status"] for result in results.values()), 1.0)
        writer.close()
        return tmp_path / "record.jsonl"

    return record


def of(path: Path, *findings: Finding) -> list[Cluster]:
    (column,) = of_records([path])
    return clusters(column, findings)


def ids(cluster: Cluster) -> set[str]:
    return {failure.check.id for failure in cluster.failures}


def finding(**changes: Any) -> Finding:
    entry = {"match": "*", "status": "MISMATCH", "since": "0", "until": "open", "arch": "any", "reason": "Misread",
             "issue": "docs/findings.md#misread"}  # fmt: skip
    return found._finding(entry | changes, "findings.toml, entry 1")


# -- clusters ----------------------------------------------------------------------------------------------------------


def test_failures_that_agree_in_their_signature_are_one_cluster_and_the_gravest_comes_first(record: RecordOf) -> None:
    drafts = [DRAFT.format(page=page, layout="packed") for page in (16, 32, 64)]
    raising = [VERIFY.format(page=48, layout=layout) for layout in ("packed", "contiguous")]
    short = SHORT.format(keys=2)
    some = of(record({**dict.fromkeys(raising, RAISED), short: NAN, **dict.fromkeys(drafts, WRONG)}))
    assert [ids(cluster) for cluster in some] == [{*drafts}, {short}, {*raising}]
    assert [dict(cluster.words) for cluster in some] == [{"MISMATCH": 3}, {"NONFINITE": 1}, {"ERROR": 2}]


@pytest.mark.parametrize(
    "changed", [{"path": "unified"}, {"rows": "without a key"}, {"reason": "an lse exceeds its error bound"},
                {"looks": STRIDE}, {"status": "NONDETERMINISTIC"}],
)  # fmt: skip
def test_failures_that_differ_in_one_respect_are_two_clusters(record: RecordOf, changed: dict[str, str]) -> None:
    one, other = (DRAFT.format(page=page, layout="packed") for page in (16, 32))
    assert len(of(record({one: WRONG, other: WRONG | changed}))) == 2


def test_what_attribution_names_is_the_same_in_whichever_sequences(record: RecordOf) -> None:
    one, other = (DRAFT.format(page=page, layout="packed") for page in (16, 32))
    in_one = STRIDE.replace(": explains", ", in sequence 0 of 2: explains")
    (cluster,) = of(record({one: WRONG | {"looks": STRIDE}, other: WRONG | {"looks": in_one}}))
    assert cluster.looks == {"as if the stride between pages were another": 2}


def test_what_one_finding_explains_is_one_cluster_whatever_its_status(record: RecordOf) -> None:
    wrong, nan = (DRAFT.format(page=page, layout="packed") for page in (16, 32))
    unknown = DRAFT.format(page=16, layout="contiguous")
    results = {wrong: WRONG, nan: NAN | {"path": "kvcache"}, unknown: WRONG}
    both = [finding(match="*-packed-*", status=status) for status in ("MISMATCH", "NONFINITE")]
    known, other = of(record(results), *both)
    assert (ids(known), known.note and known.note.reason) == ({wrong, nan}, "Misread")
    assert (ids(other), other.note) == ({unknown}, None)


def test_a_declared_gap_is_no_failure_and_one_that_closed_names_its_entry(record: RecordOf) -> None:
    gap = {"entry": "aiter.toml, entry 3", "status": "ERROR", "reason": "No pages of 48", "issue": "docs/a.md"}
    failing, closed = (VERIFY.format(page=48, layout=layout) for layout in ("packed", "contiguous"))
    (cluster,) = of(record({failing: RAISED | {"expected": gap}, closed: PASS | {"expected": gap}}))
    assert (ids(cluster), cluster.closed) == ({closed}, "aiter.toml, entry 3")


def test_a_relation_is_explained_by_its_case_and_stands_alone_where_that_passes(record: RecordOf) -> None:
    failing, passing = (DRAFT.format(page=page, layout="packed") for page in (16, 32))
    other_bits = {"status": "MISMATCH", "path": "kvcache", "reason": "9 elements of out (2%) have other bits"}
    results = {f"pages.renamed/{one}": other_bits for one in (failing, passing)} | {failing: WRONG, passing: PASS}
    some = of(record(results))
    assert [ids(cluster) for cluster in some] == [{failing, f"pages.renamed/{failing}"}, {f"pages.renamed/{passing}"}]
    assert some[0].candidates[0].check.id == failing


def test_a_mixed_batch_joins_the_cluster_of_its_kernel_if_nothing_with_those_traits_passes(record: RecordOf) -> None:
    """Whether its wrong part is the kvcache's cannot be seen: what the drafts have, and nothing that passes, it has."""
    packed = [DRAFT.format(page=page, layout="packed") for page in (1, 2, 4, 8, 16)]
    dense = [DRAFT.format(page=page, layout="contiguous") for page in (1, 2, 4, 8, 16)]
    joins = MIXED.format(layout="packed", keys=40)
    results = {**dict.fromkeys(packed, WRONG), **dict.fromkeys(dense, PASS)}
    results[joins] = WRONG | {"path": "kvcache+extend.mha"}
    (cluster,) = of(record(results))
    assert ids(cluster) == {*packed, joins}
    assert [str(trait) for trait in cluster.common.traits] == ["packed cache"]
    assert len(packed) == MANY


def test_a_batch_without_the_traits_or_beside_a_passing_one_that_has_them_does_not_join(record: RecordOf) -> None:
    packed = [DRAFT.format(page=page, layout="packed") for page in (1, 2, 4, 8, 16)]
    dense = [DRAFT.format(page=page, layout="contiguous") for page in (1, 2, 4, 8, 16)]
    other = MIXED.format(layout="contiguous", keys=40)
    results = {**dict.fromkeys(packed, WRONG), **dict.fromkeys(dense, PASS)}
    some = of(record(results | {other: WRONG | {"path": "kvcache+extend.mha"}}))
    assert [ids(cluster) for cluster in some] == [{*packed}, {other}]


def test_the_cheapest_case_of_the_commonest_way_to_fail_stands_for_all(record: RecordOf) -> None:
    cheap, dear = SHORT.format(keys=2), SHORT.format(keys=3).replace("+64", "+640")
    cheaper = SHORT.format(keys=1).replace("b2-q4", "b2-q2").replace("+64", "+16")
    both = [finding(status=status) for status in ("MISMATCH", "NONFINITE")]
    one_off = WRONG | {"path": "unified"}
    (cluster,) = of(record({dear: NAN, cheap: NAN, cheaper: one_off}), *both)
    assert [one.check.id for one in cluster.candidates] == [cheap, dear, cheaper]


def test_kernels_of_paths() -> None:
    words = ("kvcache", "kvcache.padded", "extend.window.mha", "prefill.ck", "mha.varlen", "pa.v2.token", "prefill")
    assert [*map(kernel_of, words)] == ["kvcache", "kvcache", "mha", "ck", "mha", "pa", "prefill"]


# -- what they have in common ------------------------------------------------------------------------------------------


def having(*names: str) -> list[Any]:
    return [BY_NAME[name] for name in names]


def test_common_traits_tell_the_failing_from_the_passing_the_most_telling_first() -> None:
    failing = [having("draft", "packed cache", "sinks"), having("draft", "packed cache")]
    passing = [having("draft", "contiguous cache")] * 3 + [having("packed cache")] * 2
    told = common(failing, passing)
    assert [*map(str, told.traits)] == ["packed cache", "draft"]
    assert (told.passing, told.alike, told.without, told.tells) == (5, 0, 0, True)


def test_what_is_absent_tells_too_and_what_passes_with_all_traits_is_counted() -> None:
    failing = [having("draft", "packed cache"), having("draft", "other layouts")]
    passing = [having("draft", "contiguous cache")] * 4 + [having("draft", "packed cache")]
    told = common(failing, passing)
    assert [*map(str, told.traits)] == ["not contiguous cache"]
    assert (told.alike, told.tells) == (1, False)


def test_nothing_tells_where_nothing_passes_and_one_stray_failure_hides_no_trait() -> None:
    assert not common([having("draft")], []).tells
    told = common([having("packed cache")] * 19 + [having("draft")], [having("draft")] * 9)
    assert (str(told.traits[0]), told.without, told.tells) == ("packed cache", 1, False)


# -- owners and commands -----------------------------------------------------------------------------------------------

TREE = {
    "aiter/ops/triton/attention/mha_v3.py": (
        "from aiter.ops.triton._kernels import flash_3\n"
        "class F:\n"
        "    def forward(x): return flash_3.fwd(x)\n"
        "    def backward(x): return flash_3.bwd(x)\n"
        "def flash_attn_with_kvcache(x): return F.apply(x)\n"
    ),
    "aiter/ops/triton/_kernels/__init__.py": "from . import interface as flash_3\n",
    "aiter/ops/triton/_kernels/interface.py": "from .decode import run as fwd\nfrom .back import bwd\n",
    "aiter/ops/triton/_kernels/back.py": "import triton\n@triton.jit\ndef bwd(): pass\n",
    "aiter/ops/triton/_kernels/decode.py": (
        "import triton\n"
        "@triton.autotune(configs=[])\n@triton.jit\ndef _split(x): _inner(x)\n"
        "@triton.jit\ndef _inner(x): pass\n"
        "@triton.jit\ndef _merge(x): pass\n"
        "@triton.jit\ndef _unused(x): pass\n"
        "def run(x):\n    _split[1](x)\n    return _after(x)\n"
        "def _after(x): return _merge[2](x) or run\n"
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for file, text in TREE.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


def test_an_owner_is_found_over_imports_down_to_the_kernels_that_it_launches(tree: Path) -> None:
    (owner,) = owners(backends.load("aiter"), {"kvcache"}, tree)
    assert owner.lines(1) == [
        "flash_attn_with_kvcache in aiter/ops/triton/attention/mha_v3.py",
        "aiter/ops/triton/_kernels/decode.py: _merge and 1 more",
    ]
    assert [kernel for _, kernel in owner.kernels] == ["_merge", "_split"]


def test_an_owner_without_a_source_is_named_all_the_same_and_a_backend_of_its_own_has_none() -> None:
    (owner,) = owners(backends.load("aiter"), {"unified"}, None)
    assert owner.lines(9) == ["unified_attention (no source at hand)"]
    (own,) = owners(backends.load("aiter_pa_decode"), {"pa"}, None)
    assert own.function == "paged_attention_decode"
    assert not owners(backends.load("torch"), {"sdpa"}, None)


@pytest.mark.parametrize(
    "reason", ["E: no (_kernels/decode.py:9 in run)", "killed by SIGSEGV, in run (triton/_kernels/decode.py:9): x"]
)
def test_an_exception_or_a_death_names_its_own_function(tree: Path, reason: str) -> None:
    owner = raised_in(reason, tree)
    assert owner is not None
    assert owner.lines(9) == ["run in aiter/ops/triton/_kernels/decode.py"]
    assert raised_in("an element exceeds its error bound", tree) is None


@pytest.mark.parametrize(
    ("since", "until", "ends"),
    [("0", "0.1.3", "--bad v0.1.2 --good v0.1.3 --fixed"), ("0.1.2", "open", "--good v0.1.1 --bad v0.1.2"),
     ("0", "open", ""), (None, None, "--good v0.1.1 --bad v0.1.2")],
)  # fmt: skip
def test_the_ends_of_a_bisection_are_those_of_the_finding(
    tmp_path: Path, since: str | None, until: str | None, ends: str
) -> None:
    checkout = Checkout(tmp_path / "aiter")
    for number in (1, 2, 3):
        checkout.commit(str(number), f"v0.1.{number}")
    source = located(f"{checkout.path}@v0.1.2")
    known = finding(since=since, until=until) if since else None
    check = Check.parse(DRAFT.format(page=16, layout="packed"))
    options = {"--backend": "aiter", "--target": "interpreter", "--aiter": f"{checkout.path}@v0.1.2"}
    told = dict(commands(check, "", False, options, source, known))
    wanted = (
        f"python -m conformance bisect --backend aiter --target interpreter --aiter {checkout.path} {ends} {check.id}"
    )
    assert told.get("bisect", "") == (wanted if ends else "")
    assert [*told] == ["run", "explain", "shrink", "repro", *(["bisect"] if ends else [])]


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_record_is_triaged_without_running_anything(record: RecordOf, command: Callable[..., Done]) -> None:
    drafts = [DRAFT.format(page=page, layout="packed") for page in (16, 32)]
    path = record({**dict.fromkeys(drafts, WRONG), DRAFT.format(page=16, layout="contiguous"): PASS})
    done = command("triage", path, "--no-run")
    assert done.code == 1, done.printed
    assert "2 of 3 checks fail" in done.out
    assert "1   2 MISMATCH: 100% of the failures, on kvcache" in done.out
    assert "all: packed cache; none of 1 that pass on kvcache are so too" in done.out
    assert "owner    flash_attn_with_kvcache" in done.out
    assert "TRIAGED: 2 failures in 1 cluster, 1 of them unexplained." in done.out
    told = json.loads(command("triage", path, "--no-run", "--format", "json").out)
    assert {*told["clusters"][0]["checks"]} == {*drafts}
    cheapest = told["clusters"][0]["representative"]
    markdown = command("triage", path, "--no-run", "--format", "markdown").out
    assert "### 1. 2 MISMATCH" in markdown
    assert f"* case: `{cheapest}`" in markdown


def test_exit_codes_say_what_became_of_a_record(record: RecordOf, command: Callable[..., Done]) -> None:
    draft = DRAFT.format(page=16, layout="packed")
    path = record({draft: PASS})
    assert (command("triage", path).code, "NOTHING FAILED." in command("triage", path).out) == (0, True)
    path.unlink()
    path = record({draft: {"status": "NOT RUN", "reason": "no GPU"}})
    done = command("triage", path)
    assert (done.code, done.out.splitlines()[-1]) == (3, "NOTHING RAN.")
    path.unlink()
    path = record({draft: WRONG}, lacking=[DRAFT.format(page=32, layout="packed")])
    done = command("triage", path, "--no-run")
    assert (done.code, "INCOMPLETE" in done.out, draft in done.out) == (3, True, True)
    path.unlink()
    path = record({draft: WRONG}, aiter="/nowhere/aiter")
    done = command("triage", path)
    assert (done.code, done.out) == (2, "")
    assert "no AITER at '/nowhere/aiter'" in done.err
    assert "--no-run" in done.err
    done = command("triage", path, "--no-run")
    assert (done.code, "source was not read" in done.out) == (1, True)
    done = command("triage", path.parent / "absent.jsonl")
    assert (done.code, "Traceback" in done.printed) == (2, False)


def test_what_stands_for_a_cluster_is_run_explained_and_shrunk(record: RecordOf, command: Callable[..., Done]) -> None:
    cases = [DRAFT.format(page=page, layout="packed") for page in (16, 32)]
    wrong = WRONG | {"path": ""}
    path = record(dict.fromkeys(cases, wrong), backend="tests.harness.answers:wrong", target="cpu")
    done = command("triage", path, "--seconds", "60", "--format", "json")
    assert done.code == 1, done.printed
    (cluster,) = json.loads(done.out)["clusters"]
    examined = cluster["examined"]
    assert examined["status"] == "MISMATCH"
    assert examined["smallest"] == "decode-noncausal-bf16-b1-q1-h1:1-d64-p16-kv1-contiguous-random"
    assert "looks" in dict(examined["lines"])
    assert {"run", "bisect"} >= {*cluster["commands"]}
    assert examined["smallest"] in cluster["commands"]["run"]
    assert "smaller" in done.err


def test_a_kernel_that_kills_its_process_kills_nothing_else(record: RecordOf, command: Callable[..., Done]) -> None:
    case = DRAFT.format(page=16, layout="packed")
    path = record({case: WRONG | {"path": ""}}, backend="tests.harness.answers:dies", target="cpu")
    done = command("triage", path, "--seconds", "2")  # for which the shrinking gets none
    assert done.code == 1, done.printed
    assert "CRASH here, MISMATCH in the record" in done.out
    assert "explain ended" not in done.out  # it runs the case in a child first


class Answers:
    """Stands for trials in child processes: each check comes to the result that `result` gives."""

    def __init__(self, result: Callable[[Check], dict[str, str]]) -> None:
        self.result, self.asked = result, list[str]()
        self.isolation = SimpleNamespace(time_limit=60.0)

    @property
    def count(self) -> int:
        return len(self.asked)

    def run(self, check: Check) -> Outcome:
        self.asked.append(check.id)
        return Outcome(dict(self.result(check)), "")


def examined(cluster: Cluster, answers: Answers, seconds: float) -> Examined:
    into = Examined()
    Examiner(choose("torch", "cpu", None), cast(Trials, answers), lambda _: None).examine(cluster, into, seconds)
    return into


def test_several_are_tried_before_a_cluster_is_said_not_to_fail_here(record: RecordOf) -> None:
    cases = [DRAFT.format(page=page, layout="packed") for page in (1, 2, 4, 8, 16)]
    (cluster,) = of(record(dict.fromkeys(cases, WRONG)))
    answers = Answers(lambda _: PASS)
    into = examined(cluster, answers, 60.0)
    assert answers.asked == [one.check.id for one in cluster.candidates[:3]]
    assert into.notes == ["does not fail here, as far as was tried (3 of 5)"]
    assert not into.smallest


def test_where_nothing_runs_no_cluster_is_examined(record: RecordOf) -> None:
    (cluster,) = of(record({DRAFT.format(page=16, layout="packed"): WRONG}))
    with pytest.raises(NothingRuns, match="no GPU"):
        examined(cluster, Answers(lambda _: {"status": "NOT RUN", "reason": "no GPU"}), 60.0)


def test_graphs_are_not_asked_of_a_target_that_captures_none(record: RecordOf) -> None:
    (cluster,) = of(record({f"graph.replay/{DRAFT.format(page=16, layout='packed')}": WRONG}))
    answers = Answers(lambda _: WRONG)
    assert examined(cluster, answers, 60.0).notes == ["target cpu cannot show it"]
    assert not answers.asked


def test_time_that_runs_out_keeps_the_smallest_so_far(record: RecordOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run takes a second by this clock; the first, and the first smaller case, take two of the two and a half."""
    (cluster,) = of(record({f"pages.renamed/{DRAFT.format(page=16, layout='packed')}": WRONG}))
    now = [0.0]

    def answer(_: Check) -> dict[str, str]:
        now[0] += 1.0
        return WRONG

    monkeypatch.setattr("conformance.triage.examined.monotonic", lambda: now[0])
    monkeypatch.setattr(Examiner, "_explain", lambda *_: None)
    answers = Answers(answer)
    into = examined(cluster, answers, 2.5)
    assert (into.smallest, into.runs) == (answers.asked[-1], 3)
    assert into.smallest != cluster.candidates[0].check.id
    assert into.notes == ["stopped after 2s (--seconds)"]
    assert answers.isolation.time_limit == 60.0


def test_an_interrupt_keeps_what_is_done(
    record: RecordOf, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Examiner, cluster: Cluster, into: Examined, seconds: float) -> None:
        into.smallest = f"{cluster.candidates[0].check.id} made small"
        raise KeyboardInterrupt

    monkeypatch.setattr(Examiner, "examine", interrupted)
    case = DRAFT.format(page=16, layout="packed")
    done = command("triage", record({case: WRONG}, backend="torch", target="cpu"))
    assert done.code == 3
    assert f"smallest {case} made small" in done.out
    assert "interrupted: shown is what was done" in done.err
