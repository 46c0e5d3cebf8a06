"""Where versions are run: a Python with its torch and Triton, and a target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

import conformance
from conformance.qualify.table import Setting
from conformance.record import Record


class BadPlace(Exception):
    """A virtual environment, or a target in it, that runs nothing, in one sentence."""


@dataclass(frozen=True)
class Place:
    """A Python, the target that it runs kernels on, and what records will say of both."""

    python: Path
    backend: str
    spec: str  # of the target
    environment: dict[str, str]

    @property
    def kind(self) -> str:
        return self.spec.partition(":")[0]

    @property
    def setting(self) -> Setting:
        run = {"backend": self.backend, "aiter": {"version": "?"}, "options": []}
        return Setting.of(Record({"run": run, "environment": self.environment}))


def place(env: Path | None, backend: str, target: str | None) -> Place:
    """Where a virtual environment, or this one, runs that backend. Raises BadPlace."""
    python = Path(sys.executable) if env is None else _python(env)
    command = [str(python), "-m", "conformance.qualify.probe", backend, *([target] if target else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment(python))
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BadPlace(f"{python} does not run the suite: {said[-1]}") from None
    if "refused" in told:
        raise BadPlace(told["refused"])
    return Place(python, backend, told["spec"], told["environment"])


def child_environment(python: Path) -> dict[str, str]:
    """The environment in which that Python finds this very suite, and nothing else of this one's."""
    paths = [str(_suite(python)), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _suite(python: Path) -> Path:
    """The folder that holds the suite's packages, and no torch if another Python is to look there."""
    root = Path(conformance.__file__).parent.parent
    if python == Path(sys.executable) or root not in Path(torch.__file__).parents:
        return root
    apart = Path(tempfile.gettempdir()) / f"conformance-{os.getuid()}-{conformance.__version__}"
    apart.mkdir(mode=0o700, exist_ok=True)
    for package in ("conformance", "reference"):
        link = apart / package
        if not link.is_symlink() or link.readlink() != root / package:
            link.unlink(missing_ok=True)
            link.symlink_to(root / package)
    return apart


def _python(env: Path) -> Path:
    """A link stays one: it is what tells a virtual environment. Raises BadPlace."""
    for python in (env, env / "bin" / "python", env / "Scripts" / "python.exe"):
        if python.is_file():
            return python.absolute()
    raise BadPlace(f"--python {env} is neither a virtual environment nor a Python")
