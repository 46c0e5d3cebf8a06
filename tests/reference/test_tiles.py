"""Tiles are an economy: their size changes nothing but the rounding, and bounds the memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import attend
from tests.reference.comparing import assert_same
from tests.reference.problems import Problem, random_problem
from tests.reference.strategies import modest, problems

ROOM = 512 * 2**20
"""Bytes for tiles of 32 MiB, what is derived from them, and nothing that grows with the context."""


@modest
@given(problem=problems(), page_size=st.integers(1, 20), tile_bytes=st.integers(1, 50_000))
def test_any_tile_is_as_good_as_one(problem: Problem, page_size: int, tile_bytes: int) -> None:
    arguments = problem.paged(page_size=page_size)
    assert_same(attend(**arguments, sums=True, tile_bytes=tile_bytes), attend(**arguments, sums=True, tile_bytes=2**40))


@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"causal": False, "scale": 3.0},
        {"causal": False, "window": (200, 10), "sinks": True},
        {"causal": True, "alibi": True, "softcap": 5.0, "descale": True},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("tile_bytes", [1, 200_000])
def test_long_and_short_sequences_together(tile_bytes: int, options: dict[str, Any]) -> None:
    """Sequences end in different tiles; with the larger one, several are in a tile at first and fewer later."""
    problem = random_problem((4, 2, 7, 1, 0, 3), (513, 30, 1100, 0, 64, 256), head_dim=16, **options)
    arguments = problem.paged(page_size=16)
    assert_same(attend(**arguments, sums=True, tile_bytes=tile_bytes), attend(**arguments, sums=True, tile_bytes=2**40))


@pytest.mark.parametrize("ascending", [False, True])
def test_a_maximum_that_moves_in_every_tile(ascending: bool) -> None:
    """Logits from -300 to 300 in order, so that all, or nothing, of what was summed is scaled down."""
    problem = random_problem((2,), (64,), q_heads=2, kv_heads=1, head_dim=2, causal=False, scale=1.0)
    problem.q[0][..., 0] = 1.0
    problem.k[0][..., 0] = 10.0 * torch.linspace(-30, 30, 64).double()[:, None] * (1 if ascending else -1)
    assert_same(problem.attend(sums=True, tile_bytes=1), problem.naive())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read on Linux")
def test_memory_does_not_grow_with_the_keys() -> None:
    """131,072 keys, 64 heads, 16 queries: at once, the scores alone would be 1 GiB and float64 copies 2 GiB."""
    command = [sys.executable, "-m", "tests.reference.long_context"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak"] < ROOM
