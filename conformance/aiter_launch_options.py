"""Launch options of AITER's kernels on an NVIDIA GPU: those that AITER has for MI300.

AITER keeps tile sizes and warps in files by arch, `gfx942-MHA-DEFAULT.json`; a kernel whose arch has none does not run.
They change speed, and in which tiles the keys are visited: what MI300 is sent is what should be judged here.
"""

import importlib
import tempfile
from pathlib import Path
from typing import Any

from conformance.targets import Target

STANDS_IN = "gfx942-"

_folders: list[tempfile.TemporaryDirectory[str]] = []
"""Kept until the process ends."""


def lend(target: Target, root: Path) -> None:
    """Lets the AITER at `root` find each file of gfx942 under the name of an NVIDIA GPU's arch too.

    To be called once, before a kernel is imported, which takes the folder's path then. Does nothing for other targets,
    and where an AITER keeps its options elsewhere.
    """
    if not target.arch.startswith("sm_"):
        return
    options = root / "aiter" / "ops" / "triton" / "configs"
    if not options.is_dir():
        return
    _folders.append(tempfile.TemporaryDirectory(prefix="aiter-launch-options-"))
    lent = Path(_folders[-1].name)
    arch = target.arch.removeprefix("sm_")  # as Triton calls it, and so AITER
    for file in options.iterdir():
        lent.joinpath(file.name).symlink_to(file.resolve())
        if file.name.startswith(STANDS_IN):
            name = f"{arch}-{file.name.removeprefix(STANDS_IN)}"
            if not (options / name).exists():
                lent.joinpath(name).symlink_to(file.resolve())
    core: Any = importlib.import_module("aiter.ops.triton.utils.core")
    core.AITER_TRITON_CONFIGS_PATH = str(lent)
