"""An NVIDIA GPU finds MI300's launch options under its own name; every other target what AITER has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASKS = """
import sys, types, torch
from pathlib import Path
from conformance import aiter_launch_options
from conformance.targets import Target
package = types.ModuleType("aiter"); package.__path__ = [str(Path("aiter").resolve())]; sys.modules["aiter"] = package
aiter_launch_options.lend(Target("gpu", sys.argv[1], torch.device("cpu")), Path())
from aiter.ops.triton.utils import core
for name in ("90-MHA.json", "gfx942-MHA.json", "90-OWN.json", "gfx950-MHA.json"):
    path = Path(core.AITER_TRITON_CONFIGS_PATH) / name
    print(name, path.read_text() if path.exists() else "absent")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    utils, configs = (tmp_path / "aiter" / "ops" / "triton" / name for name in ("utils", "configs"))
    for folder in (utils, configs):
        folder.mkdir(parents=True)
    for folder in (utils.parent.parent, utils.parent, utils):
        (folder / "__init__.py").touch()
    (utils / "core.py").write_text(f"AITER_TRITON_CONFIGS_PATH = {str(configs)!r}\n")
    for name in ("gfx942-MHA", "gfx950-MHA", "gfx942-OWN", "90-OWN"):
        (configs / f"{name}.json").write_text(f"of {name}")
    return tmp_path


def found(tree: Path, arch: str) -> dict[str, str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", ASKS, arch], cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in ran.stdout.splitlines())


def test_an_nvidia_gpu_takes_those_of_mi300(tree: Path) -> None:
    assert found(tree, "sm_90") == {
        "90-MHA.json": "of gfx942-MHA",
        "gfx942-MHA.json": "of gfx942-MHA",
        "90-OWN.json": "of 90-OWN",
        "gfx950-MHA.json": "of gfx950-MHA",
    }


def test_an_amd_gpu_takes_its_own(tree: Path) -> None:
    assert found(tree, "gfx942")["90-MHA.json"] == "absent"
