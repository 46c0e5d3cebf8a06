"""The compile targets build what a case launches: facts of kernels that can be worked out, and failures of every kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conformance.case import Case
from conformance.check import Check, of_tier, to_build
from conformance.inputs import Inputs, blank, make
from tests.harness import small_decode_aiter

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]

BEHAVIOURS = ("builds", "does_not_compile", "needs_much_lds", "spills", "has_too_many_threads", "does_not_assemble",
              "is_refused_at_launch", "tunes", "launches_nothing", "declines")  # fmt: skip
FIGURES = ["name", "vgprs", "agprs", "sgprs", "vgpr_spills", "sgpr_spills", "lds", "scratch", "code", "warps"]


def case_of(behaviour: str) -> str:
    """The case with which `built_kernels.by_page_size` behaves so."""
    return f"decode-noncausal-bf16-b1-q2-h2:1-d16-p{1 + BEHAVIOURS.index(behaviour)}-kv9-packed-random"
