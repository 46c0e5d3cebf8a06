"""What the tests of the suite share: one thread each, and whole runs, as a user or a CI job starts them."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from conformance.__main__ import main

OF_PYTEST = ("-p", "no:cacheprovider")
"""What runs of pytest are told besides: they leave nothing behind."""

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="package")
def can_be_interrupted() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT, and so would all that these tests start and interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """These tensors are tiny, and threads that wait for a shared core cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Done:
    """A run that has ended."""

    code: int
    out: str
    err: str

    @property
    def printed(self) -> str:
        return self.out + self.err


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory that is not the checkout; a folder `aiter` in it hides one that is installed."""
    (tmp_path / "aiter").mkdir()
    (tmp_path / "aiter" / "__init__.py").write_text("")
    return tmp_path


@pytest.fixture
def start(elsewhere: Path) -> Callable[..., Done]:
    """Starts `python -m MODULE ...` in a process of its own."""

    def start(
        *words: object, module: str = "conformance", cwd: Path = elsewhere, options: Sequence[str] = OF_PYTEST
    ) -> Done:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (elsewhere, ROOT, HERE)))
        environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", module, *map(str, words), *options]
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return start


@pytest.fixture
def command(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs a command in this process: what is refused before a case runs needs no process of its own."""
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(elsewhere)

    def command(*words: object) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(map(str, words)))
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 1
        return Done(code, out.getvalue(), err.getvalue())

    return command
