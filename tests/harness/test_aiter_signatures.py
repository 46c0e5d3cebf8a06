"""Calls held against what a source tree declares, without importing it."""

from pathlib import Path

import pytest

from conformance.aiter_signatures import Passed, refusal
from conformance.backends import aiter
from tests.harness.small_aiter import FUNCTION, KERNEL, found, write_tree

MODULES = ("aiter.ops.triton.attention.mha_v3", "aiter.ops.triton.mha_v3")

BODY = """
import a_package_that_is_not_there

def other(): ...

def flash_attn_with_kvcache(q, k, /, v, scale=None, *, causal, window=(-1, -1)): ...
"""


@pytest.mark.parametrize(
    ("passed", "why"),
    [
        (Passed(3, ("causal",)), ""),
        (Passed(2, ("v", "scale", "causal", "window")), ""),
        (Passed(4, ("causal",)), ""),
        (Passed(2, ("causal",)), "missing a required argument: 'v'"),
        (Passed(5, ("causal",)), "too many positional arguments"),
        (Passed(3, ("causal", "sinks")), "got an unexpected keyword argument 'sinks'"),
        (Passed(3, ("causal", "v")), "multiple values for argument 'v'"),
        (Passed(1, ("k", "v", "causal")), "'k' parameter is positional only, but was passed as a keyword"),
    ],
)
def test_a_call_binds_or_the_reason_is_said(passed: Passed, why: str, tmp_path: Path) -> None:
    write_tree(tmp_path, body=BODY)
    said = refusal(tmp_path, MODULES, FUNCTION, passed)
    assert said == (f"{FUNCTION} in {KERNEL}: {why}" if why else "")


def test_any_number_of_arguments_may_be_declared(tmp_path: Path) -> None:
    write_tree(tmp_path, body=f"def {FUNCTION}(*args, **kwargs): ...\n")
    assert refusal(tmp_path, MODULES, FUNCTION, Passed(9, ("q",))) == ""


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, body="def renamed(): ...\n")
    assert refusal(tmp_path, MODULES, FUNCTION, Passed(0)) == f"no {FUNCTION} in {KERNEL}"
    assert refusal(tmp_path, ("aiter.ops.mha",), FUNCTION, Passed(0)) == "no module aiter.ops.mha"


def test_an_older_place_is_looked_at_too(tmp_path: Path) -> None:
    write_tree(tmp_path, kernel="aiter/ops/triton/mha_v3.py", body=f"def {FUNCTION}(): ...\n")
    assert refusal(tmp_path, MODULES, FUNCTION, Passed(0)) == ""


def test_a_person_is_told_which_calls_bind(tmp_path: Path) -> None:
    write_tree(tmp_path, body=f"def {FUNCTION}(q, k_cache, v_cache, **kwargs): ...\n")
    (tmp_path / "aiter/ops/mha.py").write_text("def flash_attn_varlen_func(q, k, v): ...\n")
    (tmp_path / "aiter/ops/attention.py").write_text("def paged_attention_v1(*args): ...\n")
    said = aiter.describe(found(tmp_path))["calls bind to"]
    assert said == (
        "kvcache, paged; "
        "not to unified: no module aiter.ops.triton.attention.unified_attention or aiter.ops.triton.unified_attention; "
        "not to mha: no module aiter.ops.triton.attention.mha or aiter.ops.triton.mha; "
        "not to ck: flash_attn_varlen_func in aiter/ops/mha.py: got an unexpected keyword argument 'cu_seqlens_q'"
    )
