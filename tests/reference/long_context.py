"""Run as a process of its own: the oracle over one long context, and the memory that it took.

Prints JSON: `peak`, bytes beyond the inputs, and fails where tiles eight times as large yield another result.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch

from reference import attend
from tests.reference.comparing import assert_same

KEYS, PAGE_SIZE, Q_HEADS, KV_HEADS, HEAD_DIM, QUERIES = 131_072, 64, 64, 8, 128, 16


def main() -> None:
    """Measure the first call, before anything larger has been allocated."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pages = KEYS // PAGE_SIZE
    k_cache, v_cache = (torch.randn(pages, PAGE_SIZE, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16) for _ in "kv")
    arguments: dict[str, Any] = {
        "q": torch.randn(QUERIES, Q_HEADS, HEAD_DIM, dtype=torch.bfloat16),
        "k_cache": k_cache,
        "v_cache": v_cache,
        "block_table": torch.randperm(pages, dtype=torch.int32)[None],
        "seq_lens": torch.tensor([KEYS], dtype=torch.int32),
        "query_start_loc": torch.tensor([0, QUERIES], dtype=torch.int32),
    }
    inputs = peak_bytes()
    result = attend(**arguments, scale=HEAD_DIM**-0.5, causal=True, sums=True)
    peak = peak_bytes() - inputs
    assert_same(attend(**arguments, scale=HEAD_DIM**-0.5, causal=True, sums=True, tile_bytes=2**28), result)
    print(json.dumps({"peak": peak}))


def peak_bytes() -> int:
    """Most memory that this process has held at once."""
    held = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert held is not None
    return int(held[1]) * 1024


if __name__ == "__main__":
    main()
