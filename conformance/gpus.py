"""Which GPUs a process may use, and which one of them a worker of pytest-xdist takes.

The caller says so in environment variables, which a driver reads once, when a process first asks it for anything. On
CUDA there is one. On ROCm there are three: the runtime below HIP leaves those of `ROCR_VISIBLE_DEVICES`; of these HIP
takes those of `HIP_VISIBLE_DEVICES`, or without it of `CUDA_VISIBLE_DEVICES`, which count from 0 among what was left.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import takewhile

BELOW_HIP = "ROCR_VISIBLE_DEVICES"

KINDS = r"\d+", r"GPU-.*", r"MIG-.*"
"""A number, the UUID of a GPU, or of a part of one. A list is of one kind, and ends at the first entry that is not."""

COUNT = "import torch; print(torch.cuda.device_count())"


def variables(*, hip: bool) -> tuple[str, ...]:
    """The variables that list what torch sees; the first that is set decides."""
    return ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if hip else ("CUDA_VISIBLE_DEVICES",)


def visible(environ: Mapping[str, str], *, hip: bool, present: int | None = None) -> list[str] | None:
    """The GPUs that a process sees, as its list names them; None without a list, unless `present` is known.

    `present` is how many the driver shows to such a process: it ends a list where an entry names a GPU that is not
    there. Not a list of MIG devices, of which a process sees the first alone.
    """
    listed = next((environ[name] for name in variables(hip=hip) if name in environ), None)
    entries = None if listed is None else _entries(listed, repeats=hip)
    if hip and BELOW_HIP in environ:
        left = [str(number) for number in range(len(_entries(environ[BELOW_HIP], repeats=True)))]
        entries = left if entries is None else list(takewhile(lambda e: e in left or not e.isdigit(), entries))
    if present is None:
        return entries
    if entries is None:
        return [str(number) for number in range(present)]
    return entries if entries and entries[0].startswith("MIG-") else entries[:present]


def pin(environ: Mapping[str, str], gpus: list[str], worker: int, *, hip: bool) -> dict[str, str]:
    """What to set in the environment of a worker, by its number, so that it sees one of these GPUs and no other.

    Every list that is set becomes that one entry: some libraries refuse two lists that differ.
    """
    if not gpus:
        return {}
    entry = gpus[worker % len(gpus)]
    names = variables(hip=hip)
    return dict.fromkeys([name for name in names if name in environ] or names[:1], entry)


def number(worker: str) -> int:
    """N of the worker `gwN`; 0 for one that goes by another name."""
    found = re.fullmatch(r"gw(\d+)", worker)
    return int(found[1]) if found else 0


def count_apart() -> int:
    """How many GPUs torch sees, asked in another process: the driver of this one stays untouched, and can be pinned."""
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else 0


def _entries(listed: str, *, repeats: bool) -> list[str]:
    """The valid entries of a list. One that is repeated counts once on ROCm; on CUDA it voids the whole list."""
    words = [word.strip() for word in listed.split(",")]
    kind = next((kind for kind in KINDS if re.fullmatch(kind, words[0])), None)
    valid = list(takewhile(lambda word: kind is not None and re.fullmatch(kind, word), words))
    once = list(dict.fromkeys(valid))
    return once if repeats or once == valid else []
