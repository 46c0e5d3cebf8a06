"""Targets: what each specification activates, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
import torch

import conformance.targets
from conformance.targets import Target, TargetError, activate, gpu

RunFresh = Callable[..., str]

FORKING = """
import json, os, sys, traceback
import torch
from conformance.targets import TargetError, activate

def report(spec):
    try: print(activate(spec).name)
    except TargetError as error: print(f"TargetError: {error}")

for line in sys.stdin:
    request = json.loads(line)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(writing, 1), os.dup2(writing, 2)
        os.environ.update(request["environment"])
        try: exec(request["code"], {"report": report, "sys": sys}); status = 0
        except BaseException: traceback.print_exc(); status = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as output: said = output.read()
    print(json.dumps({"said": said.strip(), "failed": os.wait()[1] != 0}), flush=True)
"""


@pytest.fixture(scope="module")
def run_fresh() -> Iterator[Callable[..., str]]:
    """Runs code in a process of its own, in which `report(spec)` activates a target, and gives what it printed.

    Each process is forked from one that has imported torch already, and not Triton.
    """
    here = str(Path(__file__).parents[2])
    environment = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "CU_NUM")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (here, environment.get("PYTHONPATH"))))
    command = [sys.executable, "-W", "error", "-c", FORKING]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment) as forking:
        assert forking.stdin
        assert forking.stdout
        requests, answers = forking.stdin, forking.stdout

        def run(code: str, **environment: str) -> str:
            print(json.dumps({"code": code, "environment": environment}), file=requests, flush=True)
            answer = json.loads(answers.readline())
            assert not answer["failed"], answer["said"]
            return answer["said"]

        yield run
        requests.close()


@pytest.fixture
def no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has activated nothing yet, as far as `activate` can tell."""
    monkeypatch.setattr(conformance.targets, "_active", [])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine of eight GPUs, as torch would show it; `hip` says whose, `current` is the device that was set."""
    shown = SimpleNamespace(hip=None, current=0)

    def properties(device: torch.device) -> SimpleNamespace:
        del device
        return SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-") if shown.hip else SimpleNamespace(major=9, minor=0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: setattr(shown, "current", index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: shown.current)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(gpu, "_launch_amd_kernels_on_cuda", lambda: None)
    return shown


@pytest.mark.usefixtures("no_target")
def test_cpu_is_one_target_for_good() -> None:
    target = activate("cpu")
    assert (target.name, target.arch, target.device) == ("cpu", "cpu", torch.device("cpu"))
    assert activate("cpu") is target
    with pytest.raises(TargetError, match="runs on target cpu, and a process has one target"):
        activate("gpu")


@pytest.mark.usefixtures("no_target")
@pytest.mark.parametrize("spec", ["", "cuda", "interpreter:gfx90a", "interpreter:", "gpu:gfx942"])
def test_an_unknown_target_is_refused_with_the_known_ones(spec: str) -> None:
    with pytest.raises(TargetError, match=r"unknown target '.*': choose one of gpu, interpreter, .*, cpu"):
        activate(spec)


def test_target_names() -> None:
    device = torch.device("cpu")
    assert Target("gpu", "sm_90", device).name == "gpu:sm_90"
    assert Target("interpreter", "gfx950", device).name == "interpreter:gfx950"


@pytest.mark.usefixtures("no_target")
def test_no_gpu_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TargetError, match=r"no GPU is visible to torch: torch .* is built .* and finds no device"):
        activate("gpu")


@pytest.mark.usefixtures("no_target")
def test_an_amd_gpu_is_named_by_its_arch_alone(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.hip = "7.0"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert activate("gpu").name == "gpu:gfx942"
    assert activate("gpu").device == torch.device("cuda", 0)


@pytest.mark.usefixtures("no_target", "machine")
def test_an_nvidia_gpu_is_named_by_its_compute_capability() -> None:
    assert activate("gpu").name == "gpu:sm_90"


@pytest.mark.usefixtures("no_target", "machine")
@pytest.mark.parametrize(("worker", "index"), [("gw0", 0), ("gw7", 7), ("gw11", 3), ("master", 0)])
def test_each_xdist_worker_takes_its_gpu(worker: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
    assert activate("gpu").device == torch.device("cuda", index)


@pytest.mark.usefixtures("no_target", "machine")
def test_gpu_refuses_to_be_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(TargetError, match="TRITON_INTERPRET is set"):
        activate("gpu")


def test_cuda_launches_without_amd_options_by_whatever_way(run_fresh: RunFresh, tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("""
import triton, triton.language as tl
@triton.jit
def plain(x, N: tl.constexpr): pass
@triton.jit
def with_parameter(x, waves_per_eu: tl.constexpr): pass
configs = [triton.Config({"N": 16, "kpack": 2, "matrix_instr_nonkdim": 16}, num_warps=4)]
tuned = triton.autotune(configs=configs, key=[])(plain)
heuristic = triton.heuristics({"N": lambda arguments: 16})(plain)
""")
    code = f"""
from triton.runtime.jit import JITFunction
launched = []
JITFunction.run = lambda self, *args, **options: launched.append((self.fn.__name__, sorted(options)))
from conformance.targets import gpu
gpu._launch_amd_kernels_on_cuda()
sys.path.insert(0, {str(tmp_path)!r})
from kernels import *
plain[(1,)](0, N=16, waves_per_eu=2, num_warps=4)
plain.warmup(0, N=16, kpack=2, grid=(1,))
tuned[(1,)](0)
heuristic[(1,)](0, waves_per_eu=2)
with_parameter[(1,)](0, waves_per_eu=2)
for name, options in launched: print(name, *options)
"""
    assert run_fresh(code).splitlines() == [
        "plain N grid num_warps warmup",
        "plain N grid warmup",
        "plain N grid num_ctas num_stages num_warps warmup",
        "plain N grid warmup",
        "with_parameter grid warmup waves_per_eu",
    ]


def test_nothing_imports_triton_before_a_target_needs_it(run_fresh: RunFresh) -> None:
    code = """
import conformance.aiter_source
report("cpu")
print("triton" in sys.modules)
"""
    assert run_fresh(code).splitlines() == ["cpu", "False"]


def test_the_interpreter_takes_itself_for_an_mi300x(run_fresh: RunFresh) -> None:
    code = """
report("interpreter")
report("interpreter:gfx942")
report("interpreter:gfx950")
import os, torch, triton
from triton.runtime import driver
target = driver.active.get_current_target()
print(target.backend, target.arch, target.warp_size, driver.active.get_current_device())
print(driver.active.get_device_capability(), driver.active.get_active_torch_device(), torch.cuda.is_available())
print(torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count, os.environ["CU_NUM"])
print(len(driver.active.get_benchmarker()(lambda: None, quantiles=[0.5, 0.2, 0.8])))
"""
    assert run_fresh(code).splitlines() == [
        "interpreter:gfx942",
        "interpreter:gfx942",
        "TargetError: this process runs on target interpreter:gfx942, and a process has one target: "
        "start another for interpreter:gfx950",
        "hip gfx942 64 0",
        "(9, 4) cpu False",
        "304 304",
        "3",
    ]


def test_the_interpreter_takes_itself_for_an_mi350x_with_the_users_compute_units(run_fresh: RunFresh) -> None:
    code = """
report("interpreter:gfx950")
import torch
print(torch.cuda.get_device_properties().multi_processor_count)
"""
    assert run_fresh(code).splitlines() == ["interpreter:gfx950", "256"]
    assert run_fresh(code, CU_NUM="80").splitlines() == ["interpreter:gfx950", "80"]
    refusal = "TargetError: CU_NUM is 'many', which is no number of compute units"
    assert run_fresh("report('interpreter')", CU_NUM="many") == refusal


def test_a_compile_target_takes_itself_for_the_gpu_it_builds_for(run_fresh: RunFresh) -> None:
    code = """
report("compile:gfx950")
report("compile:gfx942")
import os, torch
from triton.runtime import driver
target = driver.active.get_current_target()
print(target.backend, target.arch, target.warp_size, "TRITON_INTERPRET" in os.environ)
print(torch.cuda.get_device_properties().multi_processor_count, torch.cuda.is_available())
"""
    assert run_fresh(code).splitlines() == [
        "compile:gfx950",
        "TargetError: this process runs on target compile:gfx950, and a process has one target: "
        "start another for compile:gfx942",
        "hip gfx950 64 False",
        "256 False",
    ]


def test_a_compile_target_refuses_to_build_something_else(run_fresh: RunFresh) -> None:
    assert run_fresh("report('compile:gfx942')", TRITON_INTERPRET="1") == (
        "TargetError: TRITON_INTERPRET is set, so that Triton would interpret on the CPU what target compile:gfx942 is "
        "to build: unset it"
    )
    assert run_fresh("report('compile:gfx942')", TRITON_OVERRIDE_ARCH="gfx90a") == (
        "TargetError: TRITON_OVERRIDE_ARCH is set, so that Triton would build for gfx90a, not gfx942: unset it"
    )
    code = """
import triton.backends
del triton.backends.backends["amd"]
report("compile:gfx942")
"""
    assert "as installed here has no backend for AMD's GPUs" in run_fresh(code)


def test_triton_that_was_imported_to_compile_is_refused(run_fresh: RunFresh) -> None:
    code = """
import os, triton
report("interpreter")
print("TRITON_INTERPRET" in os.environ)
"""
    assert run_fresh(code).splitlines() == [
        "TargetError: Triton was imported before the interpreter target was activated: activate the target first",
        "False",
    ]


def test_missing_triton_names_the_extra(run_fresh: RunFresh) -> None:
    code = """
class NoTriton:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton": raise ModuleNotFoundError("No module named 'triton'", name="triton")
sys.meta_path.insert(0, NoTriton())
report("interpreter")
report("compile:gfx942")
"""
    assert run_fresh(code).splitlines() == [
        f"TargetError: the {target} target needs Triton, which is not installed (No module named 'triton'): "
        'pip install "aiter-conformance[triton]"'
        for target in ("interpreter", "compile")
    ]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("del interpreter.InterpreterBuilder.cast_impl", "InterpreterBuilder.cast_impl is missing"),
        ("del interpreter._MISSING", "_MISSING is missing"),
        (
            "interpreter.GridExecutor.__call__ = lambda self: None",
            r"__call__ takes (self), not (self, args_dev, kwargs)",
        ),
        ("interpreter_arithmetic.mend = lambda module: None", "after the mends "),
        ("interpreter_arithmetic._mend_operations = lambda module: None", "its bfloat16 product is still wrong"),
        ("interpreter_arithmetic._mend_arguments = lambda module: None", "its bfloat16 rounding is still wrong"),
    ],
)
def test_an_interpreter_that_cannot_be_mended_is_refused(run_fresh: RunFresh, change: str, difference: str) -> None:
    code = f"""
import os
os.environ["TRITON_INTERPRET"] = "1"
from triton.runtime import interpreter
from conformance.targets import interpreter_arithmetic
{change}
report("interpreter")
import triton
print(triton.__version__)
"""
    refusal, version = run_fresh(code).splitlines()
    assert refusal.startswith(f"TargetError: the interpreter of Triton {version} is not one that this suite can mend (")
    assert difference in refusal
