"""Bundles for an issue: what a case that fails on a small AITER is written to, and its script without this project."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.backends import Answer, Backend
from conformance.case import Case
from conformance.targets import Target
from conformance.triage.repro import command as repro
from conformance.triage.repro.heard import Ear
from conformance.triage.repro.script import NotWritable, spelled_out
from tests.harness import mutable_aiter
from tests.harness.conftest import ROOT, Done

KVCACHE = "decode-noncausal-bf16-b2-q1-h2:2-d16-p4-kv5+2-packed-random"
UNIFIED = "decode-causal-bf16-b2-q1-h2:2-d16-p4-kv5+2-cache.e4m3fnuz-descale.head-packed-random"
PASSES = "decode-noncausal-bf16-b1-q1-h2:2-d16-p4-kv5-contiguous-random"
DECLINED = "decode-noncausal-bf16-b1-q1-h2:2-d16-p4-kv5-alibi-contiguous-random"

PLAIN_UNIFIED = """import torch


def unified_attention(
    q, k, v, out, cu_seqlens_q, seqused_k, softmax_scale, block_table, k_descale=None, v_descale=None, **nothing_asked
):
    ratio = q.shape[1] // k.shape[2]
    for b, n in enumerate(seqused_k.tolist()):
        start, end = cu_seqlens_q[b : b + 2].tolist()
        keys, values = (
            x[block_table[b].long()].flatten(0, 1)[:n].double()
            * (1.0 if descale is None else DESCALE)
            for x, descale in ((k, k_descale), (v, v_descale))
        )
        keys, values = keys.repeat_interleave(ratio, 1), values.repeat_interleave(ratio, 1)
        scores = torch.einsum("qhd,khd->hqk", q[start:end].double(), keys) * softmax_scale
        rows = torch.arange(end - start)[:, None] + n - (end - start)
        weights = scores.masked_fill(torch.arange(n) > rows, -torch.inf).softmax(-1)
        out[start:end] = torch.einsum("hqk,khd->qhd", weights, values).to(out.dtype)
    STRAYS
"""

RIGHT_DESCALE, FIRST_DESCALE = "descale[b].double()[:, None]", "descale[0, 0].double()"
ABORTS = "decode-causal-bf16-b2-q1-h2:2-d16-p8-kv5+2-packed-random"

OUTSIDE = (
    "import os; k.shape[1] == 8 and os.abort(); "
    "out.as_strided(out.shape, out.stride(), out.storage_offset() + out.numel())[0] = 0"
)

SCRIPT = """
import contextlib, io, json, sys
from conformance.__main__ import main

done = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["repro", *words])
    done.append((code, out.getvalue(), err.getvalue()))
json.dump(done, sys.stdout)
"""
"""Several bundles by one process, which imports torch, Triton and the kernels once."""


def tree(root: Path, page_stride: str, descale: str, strays: str) -> Path:
    """A small AITER: a Triton kernel for drafts, and a plain function for causal decodes."""
    kernels = mutable_aiter.KERNELS.replace("page * stride_kz", f"page * {page_stride}")
    mutable_aiter.write(root, kernels)
    unified = PLAIN_UNIFIED.replace("DESCALE", descale).replace("STRAYS", strays)
    (root / "aiter/ops/triton/attention/unified_attention.py").write_text(unified)
    return root


@dataclass(frozen=True)
class Session:
    """What the command said of each case on a wrong AITER, and each script on a right one and on the wrong one."""

    folder: Path
    done: dict[str, Done]
    scripts: dict[tuple[str, str], Done]
    python: Path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("repro")
    tree(folder / "right", "stride_kz", RIGHT_DESCALE, "pass")
    wrong = tree(folder / "wrong", "PAGE * stride_kn", FIRST_DESCALE, OUTSIDE)
    cases = {"kvcache": KVCACHE, "unified": UNIFIED, "passes": PASSES, "declined": DECLINED, "aborts": ABORTS}
    words = [["--aiter", str(wrong), "--target", "interpreter", case, "-o", str(folder / name)]
             for name, case in cases.items()]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(words), capture_output=True, text=True, check=False,
        env=environment, timeout=120, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = dict(zip(cases, (Done(*one) for one in json.loads(done.stdout)), strict=True))
    python = python_without_this_project(folder / "venv")
    asked = [(bundle, aiter) for bundle in ("kvcache", "unified", "aborts") for aiter in ("right", "wrong")]
    with ThreadPoolExecutor(2) as two:
        ran = two.map(lambda one: as_a_stranger(python, folder / one[0] / "reproduce.py", folder / one[1]), asked)
    return Session(folder, said, dict(zip(asked, ran, strict=True)), python)


def as_a_stranger(python: Path, script: Path, aiter: Path) -> Done:
    """Runs a script by a Python that lacks this project, with an AITER on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRITON_"))}
    environment |= {"PYTHONPATH": str(aiter), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [python, script], cwd=aiter, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    return Done(done.returncode, done.stdout, done.stderr)


def python_without_this_project(root: Path) -> Path:
    """A virtual environment with every package that is here but this one, editable or not."""
    venv.create(root, with_pip=False, symlinks=True)
    (packages,) = root.glob("lib/python*/site-packages")
    ours = ("conformance", "reference", "aiter", "__editable__", "vllm")
    for folder in dict.fromkeys([*site.getsitepackages(), str(Path(torch.__file__).parents[1])]):
        for entry in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if not entry.name.startswith(ours) and entry.suffix != ".pth" and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    return root / "bin/python"


def figures(done: Done) -> dict[str, float]:
    """What the script printed: by what, errors in units of what is allowed."""
    lines = [line.split(" x the error that rounding allows ") for line in done.out.splitlines()]
    return {line[1]: float(line[0]) for line in lines if len(line) == 2}


def test_the_python_of_these_tests_lacks_this_project(session: Session) -> None:
    code = "import importlib.util as u, safetensors; print(u.find_spec('conformance'), u.find_spec('reference'))"
    done = subprocess.run(
        [session.python, "-c", code], capture_output=True, text=True, check=True, cwd=session.folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.stdout == "None None\n"


@pytest.mark.parametrize("bundle", ["kvcache", "unified"])
def test_the_script_fails_where_the_case_failed_and_passes_on_a_correct_kernel(session: Session, bundle: str) -> None:
    assert session.done[bundle].code == 0, session.done[bundle].printed
    text = (session.folder / bundle / "reproduce.py").read_text()
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) <= 120
    wrong, right = (session.scripts[bundle, aiter] for aiter in ("wrong", "right"))
    assert wrong.code == 1, wrong.printed
    assert min(figures(wrong).values()) > 1, wrong.printed
    assert "Traceback" not in wrong.err
    assert right.code == 0, right.printed
    assert figures(right)["an element"] > 0
    assert max(figures(right).values()) <= 1
    assert set(figures(right)) == {"an element", "a row", "all rows"} | ({"an lse"} if bundle == "kvcache" else set())
    assert "On Triton's interpreter" in right.out


def test_what_is_written_beside_an_output_is_found_by_the_script(session: Session) -> None:
    assert "wrote outside its output" in (session.folder / "unified" / "issue.md").read_text()
    assert figures(session.scripts["unified", "wrong"])["an element"] == torch.inf


def test_what_kills_its_process_is_written_down_without_being_called(session: Session) -> None:
    """The script dies of it, and says where it does not that this is all it knows."""
    assert session.done["aborts"].code == 0, session.done["aborts"].printed
    assert session.done["aborts"].out.startswith(f"CRASH  {ABORTS}\n")
    assert "# unified_attention: CRASH, " in (session.folder / "aborts" / "issue.md").read_text()
    wrong, right = (session.scripts["aborts", aiter] for aiter in ("wrong", "right"))
    assert wrong.code == -signal.SIGABRT, wrong.printed
    assert right.code == 0, right.printed
    assert "It killed its process where this was written, and runs here" in right.out


def test_tensors_keep_their_strides_and_share_their_memory(session: Session) -> None:
    from safetensors import safe_open

    with safe_open(session.folder / "kvcache" / "tensors.safetensors", "pt") as file:
        views = json.loads(file.metadata()["arguments"])
        names = set(file.keys())
    k, v = views["k"], views["v"]
    assert k[0] == v[0], "K and V of packed caches are in one piece of memory"
    assert k[4] != v[4]
    assert k[3] == v[3] != [4 * 2 * 16, 2 * 16, 16, 1], "the strides of a packed cache are not a contiguous one's"
    assert {name for name in names if name.startswith("memory")} == {view[0] for view in views.values()}


def test_the_issue_has_the_facts(session: Session) -> None:
    text = (session.folder / "kvcache" / "issue.md").read_text()
    assert text.startswith("# flash_attn_with_kvcache: MISMATCH, ")
    for fact in ("AITER 1.2.3", "interpreter on a CPU, as gfx942", f"torch {torch.__version__}",
                 "* Worst element: out[",
                 "| `k` | bfloat16 | ", "python reproduce.py", f"--aiter aiter --case {KVCACHE}"):  # fmt: skip
        assert fact in text, fact
    assert str(session.folder) not in text


def test_a_case_that_does_not_fail_leaves_no_bundle(session: Session) -> None:
    passes, declined = session.done["passes"], session.done["declined"]
    assert passes.code == 2
    assert passes.err == f"conformance: the case passes, so that there is nothing to report: {PASSES}\n"
    assert declined.code == 3
    assert "the case is declined" in declined.err
    assert not (session.folder / "passes").exists()
    assert not (session.folder / "declined").exists()


def test_a_folder_that_is_not_empty_is_left_alone(command: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes").write_text("mine")
    done = command("repro", KVCACHE, "-o", tmp_path / "kept")
    assert done.code == 2
    assert done.err == f"conformance: {tmp_path}/kept is not empty, and nothing is overwritten: name another folder\n"
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["notes"]


def test_without_safetensors_the_command_says_what_to_install(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repro, "find_spec", lambda _: None)
    done = command("repro", KVCACHE, "-o", "bundle")
    assert (done.code, done.err) == (2, "conformance: repro needs safetensors: python -m pip install safetensors\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"repeated/{KVCACHE}"], "repro takes a case, not a relation"),
        ([KVCACHE, "--backend", "torch"], "backend torch does not call AITER"),
        ([KVCACHE, "--aiter", "absent"], "no AITER at 'absent'"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_mistake_is_one_sentence(command: Callable[..., Done], words: list[str], said: str) -> None:
    done = command("repro", *words, "-o", "bundle")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def _zeros(q: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(q)


def calling(times: int) -> tuple[Any, Ear]:
    """A system whose wrong answer takes so many calls of a kernel."""
    ear = Ear()
    kernel = ear.hear("aiter.kernels", "kernel", _zeros)

    def attend(_: Case, inputs: Any) -> Answer:
        answers = [kernel(inputs.q) for _ in range(times)]
        return Answer(answers[0] if answers else torch.zeros_like(inputs.q))

    return SimpleNamespace(backend=Backend("calling", attend)), ear


@pytest.mark.parametrize(
    ("times", "said"), [(2, "takes 2 calls of AITER, .*shrink it"), (0, "MISMATCH, and AITER was not called")]
)
def test_other_than_one_call_is_refused(times: int, said: str) -> None:
    with pytest.raises(repro.NoBundle, match=said):
        repro.Ran.of(Case.parse(KVCACHE), *prepared_for(times))


def test_one_call_is_kept_with_what_it_should_have_given() -> None:
    ran = repro.Ran.of(Case.parse(KVCACHE), *prepared_for(1))
    assert ran.call is not None
    assert ran.expected is not None
    assert ran.expected.out.shape == ran.inputs.q.shape
    assert not ran.expected.out.isnan().any()


def prepared_for(times: int) -> tuple[Any, Target, Ear]:
    system, ear = calling(times)
    return system, Target("cpu", "cpu", torch.device("cpu")), ear


def test_arguments_are_spelled_out_as_python_has_them() -> None:
    for value in (None, True, 3, 0.1, "auto", (-1, 0), (), (1,), torch.bfloat16):
        assert eval(spelled_out(value, "x")) == value
    assert eval(spelled_out(float("-inf"), "x")) == float("-inf")
    with pytest.raises(NotWritable, match="its argument x is a object, which a script cannot spell out"):
        spelled_out(object(), "x")
