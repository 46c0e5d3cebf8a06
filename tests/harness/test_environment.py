"""What a record says of a device, and of the memory that a case would need there: on devices that are not here."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conformance import environment
from conformance.backends import load
from conformance.case import Case
from conformance.execute import run
from conformance.inputs import make
from conformance.memory import NotEnoughMemory, refuse_too_much, shown
from conformance.relate import relate
from conformance.relations import RELATIONS
from conformance.status import Status
from conformance.targets import Target

GIB = 2**30
CASE = Case.parse("decode-noncausal-bf16-b2-q4-h4:2-d64-p16-kv3000+17-packed-random")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A GPU of 16 GiB, as torch and the drivers would show it; what is set of it can be changed."""
    gpu = SimpleNamespace(free=16 * GIB, total=16 * GIB, reserved=0, allocated=0, driver=tmp_path / "version")
    properties = SimpleNamespace(name="AMD Instinct MI300X", multi_processor_count=304, total_memory=192 * GIB)
    for name, function in {
        "get_device_properties": lambda device: properties,
        "mem_get_info": lambda device: (gpu.free, gpu.total),
        "memory_reserved": lambda device: gpu.reserved,
        "memory_allocated": lambda device: gpu.allocated,
        "device_count": lambda: 8,
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(environment, "DRIVER", {True: gpu.driver, False: gpu.driver})
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return gpu


def target_on(arch: str) -> Target:
    return Target("gpu", arch, torch.device("cuda", 0))


def test_an_amd_gpu_is_described(device: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0.2")
    device.driver.write_text("6.12.12\n")
    found = environment.describe(target_on("gfx942"))
    assert {name: found[name] for name in list(found)[list(found).index("target") :]} == {
        "target": "gpu:gfx942",
        "float8": "e4m3fnuz",
        "device": "AMD Instinct MI300X",
        "arch": "gfx942",
        "compute units": "304",
        "memory": "192 GiB",
        "runtime": "ROCm 7.0.2",
        "driver": "6.12.12",
    }


NVIDIA = "NVRM version: NVIDIA UNIX {}  550.54.15  Release Build\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1)\n"


@pytest.mark.parametrize("build", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_an_nvidia_gpu_is_described(device: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, build: str) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    device.driver.write_text(NVIDIA.format(build))
    found = environment.describe(target_on("sm_90"))
    assert (found["runtime"], found["driver"], found["float8"]) == ("CUDA 12.8", "550.54.15", "e4m3fn")


@pytest.mark.parametrize("text", [None, "", "unknown\n"])
def test_a_driver_that_does_not_say_its_version_is_left_out(device: SimpleNamespace, text: str | None) -> None:
    if text is not None:
        device.driver.write_text(text)
    assert "driver" not in environment.describe(target_on("gfx942"))


@pytest.mark.parametrize(
    ("arch", "float8"), [("gfx942", "e4m3fnuz"), ("gfx950", "e4m3fn"), ("sm_90", "e4m3fn"), ("gfx90a", None)]
)
def test_the_float8_is_that_of_the_arch_on_every_target(arch: str, float8: str | None) -> None:
    assert environment.describe(Target("interpreter", arch, torch.device("cpu"))).get("float8") == float8


@pytest.mark.usefixtures("device")
def test_all_visible_gpus_are_named_and_who_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.of_gpus() == "8: 0, 1, 2, 3, 4, 5, 6, 7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,6")
    assert environment.of_gpus() == "3: 1, 3, 6 (CUDA_VISIBLE_DEVICES=1,3,6)"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment.of_gpus() == "0 (CUDA_VISIBLE_DEVICES=)"


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "said"), [(192 * GIB, "192 GiB"), (int(15.94 * GIB), "15.9 GiB"), (5 * 2**26, "320 MiB"), (2_500, "3 KiB")]
)
def test_sizes_read_as_people_say_them(size: int, said: str) -> None:
    assert shown(size) == said


def test_the_bytes_of_inputs_are_those_that_are_moved() -> None:
    """Each memory once, whole: K and V of a packed cache share one, and q lies amid guard rows."""
    inputs = make(CASE)
    caches = 2 * inputs.k_cache.numel() * 2
    q = (inputs.q.numel() + 2 * 8 * 4 * 64) * 2
    small = (inputs.block_table.numel() + 2 + 3) * 4
    assert inputs.nbytes == caches + q + small


def test_too_much_is_refused_in_numbers(device: SimpleNamespace) -> None:
    cuda = torch.device("cuda", 0)
    device.free = int(15.9 * GIB)
    refuse_too_much(device.free, cuda)
    with pytest.raises(NotEnoughMemory, match=r"^needs 17\.2 GiB, the device has 15\.9 GiB free of 16 GiB$"):
        refuse_too_much(int(17.2 * GIB), cuda)
    device.reserved, device.allocated = 3 * GIB, GIB
    refuse_too_much(int(17.2 * GIB), cuda)  # torch keeps 2 GiB that it can give out again
    refuse_too_much(2**60, torch.device("cpu"))


@pytest.mark.parametrize("relation", [None, "repeated", "pages.renamed"])
def test_a_case_that_does_not_fit_is_a_resource_verdict(device: SimpleNamespace, relation: str | None) -> None:
    device.free = 2**14
    target, backend = target_on("gfx942"), load("torch")
    verdict = relate(RELATIONS[relation], CASE, backend, target) if relation else run(CASE, backend, target)
    assert verdict.status is Status.RESOURCE
    assert verdict.reason == "needs 2 MiB, the device has 16 KiB free of 16 GiB"


TORCH_SAYS = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1 is free."
)


def test_torch_s_own_numbers_are_kept() -> None:
    def attend(case: object, inputs: object) -> None:
        raise torch.OutOfMemoryError(TORCH_SAYS)

    backend = SimpleNamespace(answer=attend)
    verdict = run(CASE, backend, Target("cpu", "cpu", torch.device("cpu")))  # type: ignore[arg-type]
    assert verdict.status is Status.RESOURCE
    assert TORCH_SAYS in verdict.reason
