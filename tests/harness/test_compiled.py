"""The compile targets build what a case launches: kernels whose figures can be worked out, and every failure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.case import LAYOUTS, BadCase, Case
from conformance.check import Check, of_tier, to_build
from conformance.inputs import blank, make
from conformance.targets.built_kernel import BuiltKernel
from tests.harness import mutable_aiter

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]

BEHAVIOURS = ("builds", "does_not_compile", "needs_much_lds", "spills", "has_too_many_threads", "does_not_assemble",
              "is_refused_at_launch", "tunes", "launches_nothing", "declines")  # fmt: skip
"""Those of `built_kernels`, which only a process with a compile target can import."""

FIGURES = ("name", "vgprs", "agprs", "sgprs", "vgpr_spills", "sgpr_spills", "lds", "scratch", "code", "warps")


def case_of(behaviour: str) -> str:
    """The case with which `built_kernels.by_page_size` behaves so."""
    return f"decode-noncausal-bf16-b1-q2-h2:1-d16-p{1 + BEHAVIOURS.index(behaviour)}-kv9-packed-random"


@dataclass(frozen=True)
class Built:
    """What a run on a compile target printed and recorded."""

    code: int
    printed: str
    results: dict[str, dict[str, Any]]

    def kernels(self, behaviour: str) -> list[dict[str, Any]]:
        return self.results[case_of(behaviour)].get("kernels", [])


def conformance(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    dropped = ("PYTEST_", "COV_", "TRITON_", "CU_NUM")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE))), "OMP_NUM_THREADS": "1"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    command = [sys.executable, "-m", "conformance", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def build(folder: Path, *words: str) -> Built:
    done = conformance(folder, "run", *words, "--record", "record.jsonl", "-p", "no:cacheprovider")
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    lines = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    return Built(done.returncode, printed, {line["case"]: line for line in lines if line["kind"] == "case"})


@pytest.fixture(scope="module")
def gfx942(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return every_behaviour(tmp_path_factory.mktemp("gfx942"), "gfx942", BEHAVIOURS)


@pytest.fixture(scope="module")
def gfx950(tmp_path_factory: pytest.TempPathFactory) -> Built:
    few = ("builds", "needs_much_lds", "has_too_many_threads")  # the others are of no arch
    return every_behaviour(tmp_path_factory.mktemp("gfx950"), "gfx950", few)


def every_behaviour(folder: Path, arch: str, behaviours: tuple[str, ...]) -> Built:
    cases = [word for behaviour in behaviours for word in ("--case", case_of(behaviour))]
    return build(folder, "--backend", "built_kernels:by_page_size", "--target", f"compile:{arch}", *cases)


STATUS = {
    "builds": "PASS",
    "does_not_compile": "ERROR",
    "needs_much_lds": "RESOURCE",
    "spills": "PASS",
    "has_too_many_threads": "RESOURCE",
    "does_not_assemble": "ERROR",
    "is_refused_at_launch": "ERROR",
    "tunes": "PASS",
    "launches_nothing": "ERROR",
    "declines": "UNSUPPORTED",
}


def test_every_case_has_the_status_of_what_it_launches(gfx942: Built, gfx950: Built) -> None:
    """The outputs are NaN throughout: numbers that no kernel computed are not judged."""
    wanted = {case_of(behaviour): status for behaviour, status in STATUS.items()}
    assert {case: result["status"] for case, result in gfx942.results.items()} == wanted
    assert [result["status"] for result in gfx950.results.values()] == ["PASS", "PASS", "RESOURCE"]
    assert gfx942.code == gfx950.code == 1


def test_each_specialisation_is_recorded_once_with_its_figures(gfx942: Built, gfx950: Built) -> None:
    """A product of 64 x 64 tiles in bfloat16 holds one of either operand in LDS: 2 x 64 x 64 x 2 bytes."""
    for built in (gfx942, gfx950):
        copy, product = built.kernels("builds")
        for kernel in (copy, product):
            assert tuple(kernel) == FIGURES
        assert (copy["name"], copy["lds"], copy["warps"]) == ("copy", 0, 4)
        assert (product["name"], product["lds"], product["warps"]) == ("product", 16384, 8)
        # 64 x 64 float32 sums over 512 lanes are 8 registers of each; an instruction takes 4 or 8 bytes.
        assert 8 <= product["vgprs"] <= 512
        assert 0 < copy["code"] < product["code"]
        assert all(copy[name] == 0 for name in ("agprs", "vgpr_spills", "sgpr_spills", "scratch"))


def test_lds_is_held_against_what_the_arch_has(gfx942: Built, gfx950: Built) -> None:
    """128 x 64 tiles of two operands, in bfloat16, for three stages: 3 x 2 x 128 x 64 x 2 bytes."""
    for built in (gfx942, gfx950):
        (kernel,) = built.kernels("needs_much_lds")
        assert kernel["lds"] == 98304
    reason = gfx942.results[case_of("needs_much_lds")]["reason"]
    assert "product needs 98304 bytes of LDS, and gfx942 has 65536" in reason


def test_a_workgroup_has_at_most_1024_threads(gfx950: Built) -> None:
    reason = gfx950.results[case_of("has_too_many_threads")]["reason"]
    assert "copy needs 2048 threads a workgroup, and gfx950 has 1024" in reason


def test_spilled_registers_are_counted(gfx942: Built) -> None:
    """One wavefront keeps 32,768 numbers until their sum is known: 512 in each lane, and the sum, of 512 registers."""
    (kernel,) = gfx942.kernels("spills")
    assert kernel["vgprs"] == 512
    assert 0 < kernel["agprs"] <= 256
    assert kernel["vgpr_spills"] >= 1
    assert kernel["scratch"] >= 4


def test_what_does_not_compile_says_why_and_where(gfx942: Built) -> None:
    reason = gfx942.results[case_of("does_not_compile")]["reason"]
    assert reason.startswith("CompilationError: arange's range must be a power of 2 (")
    assert "; building copy (tests/harness/built_kernels.py:" in reason
    assert [kernel["name"] for kernel in gfx942.kernels("does_not_compile")] == ["copy"], "what was built before"
    assert gfx942.results[case_of("does_not_assemble")]["reason"].endswith(
        "; the compiler printed: invalid instruction"
    )


def test_only_a_backend_declines(gfx942: Built) -> None:
    """NotImplementedError is a backend's word for it, and not the compiler's."""
    reason = gfx942.results[case_of("is_refused_at_launch")]["reason"]
    assert reason.startswith("NotImplementedError: not for this arch (")
    assert "1 UNSUPPORTED: no kernel has what this case asks" in gfx942.printed


def test_a_case_that_launches_nothing_fails(gfx942: Built) -> None:
    """Building ahead is no launch."""
    result = gfx942.results[case_of("launches_nothing")]
    assert result["reason"] == "the backend launched no Triton kernel, so that there was nothing to build"
    assert "kernels" not in result


def test_autotuning_passes_over_what_does_not_fit(gfx942: Built) -> None:
    assert [kernel["lds"] for kernel in gfx942.kernels("tunes")] == [98304, 32768]


def test_a_run_says_what_was_built(gfx942: Built) -> None:
    assert "Kernels are built and not run: this says nothing about their numbers." in gfx942.printed
    assert "9 of 10 cases built: 3 PASS, 1 UNSUPPORTED, 4 ERROR, 2 RESOURCE" in gfx942.printed
    kernels = {BuiltKernel(**kernel) for behaviour in BEHAVIOURS for kernel in gfx942.kernels(behaviour)}
    assert f"built {len(kernels)} kernels that differ in name or figures\n" in gfx942.printed
    assert f"largest LDS: 98304 bytes a workgroup (product of {case_of('needs_much_lds')})\n" in gfx942.printed
    (spilling,) = gfx942.kernels("spills")
    assert f"most spilled VGPRs: {spilling['vgpr_spills']} (centred of {case_of('spills')})\n" in gfx942.printed
    assert "most spilled SGPRs: 0\n" in gfx942.printed


def test_host_code_reads_lengths_and_a_huge_cache_takes_no_memory(tmp_path: Path) -> None:
    case = "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-pages.huge-padded-needle"
    built = build(tmp_path, "--backend", "built_kernels:host_reads", "--target", "compile:gfx942", "--case", case)
    assert built.code == 0, built.printed
    assert built.results[case]["status"] == "PASS"
    kernels = built.results[case]["kernels"]
    assert len(kernels) == 2, "100 and 37 keys take 128 and 64"


def test_aiter_is_built_and_the_doctor_finds_it(tmp_path: Path) -> None:
    aiter = str(mutable_aiter.write(tmp_path / "tree"))
    system = ("--aiter", aiter, "--target", "compile:gfx950")
    done = conformance(tmp_path, "doctor", *system)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^would run +backend aiter, target compile:gfx950$", done.stdout, re.MULTILINE)
    case = "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-packed-random"
    built = build(tmp_path, *system, "--case", case)
    assert built.code == 0, built.printed
    assert built.results[case]["path"] == "kvcache"
    assert [kernel["name"] for kernel in built.results[case]["kernels"]] == ["_fwd_kernel_splitK"]


# -- what is planned ---------------------------------------------------------------------------------------------------


def test_a_tier_plans_its_cases_only() -> None:
    checks = of_tier("smoke")
    assert to_build(checks, chosen=False) == [check for check in checks if "/" not in check.id]
    case = Check.parse(case_of("builds"))
    assert to_build([case], chosen=True) == [case]
    with pytest.raises(BadCase, match="a compile target has no answers, so no relation between them can be checked"):
        to_build([case, Check.parse(f"repeated/{case.id}")], chosen=True)


# -- inputs that are never read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("features", ["", "-alibi-sinks", "-table8x-pages.shared", "-cache.e4m3fnuz"])
def test_blank_inputs_differ_in_values_alone(layout: str, features: str) -> None:
    case = Case.parse(f"decode-causal-bf16-b2-q1+8-h6:3-d80-p16-kv100+37{features}-{layout}-needle")
    real, made = make(case), blank(case)
    for name in real.__dataclass_fields__:
        right, found = getattr(real, name), getattr(made, name)
        assert type(found) is type(right)
        if isinstance(right, torch.Tensor):
            assert lying(found) == lying(right), name
    for name in ("block_table", "seq_lens", "query_start_loc"):
        assert torch.equal(getattr(made, name), getattr(real, name))
    for inputs in (real, made):
        shares = inputs.k_cache.untyped_storage().data_ptr() == inputs.v_cache.untyped_storage().data_ptr()
        assert shares is (layout in ("packed", "interleaved"))
    assert not made.k_cache.float().any()


def lying(tensor: torch.Tensor) -> tuple[object, ...]:
    """All that Triton specialises by, and host code decides by."""
    return (
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.untyped_storage().nbytes(),
        tensor.data_ptr() % 16,
    )
