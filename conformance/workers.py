"""The part of the plugin that spreads a run over the GPUs of a host: how many workers, which GPU each one takes, and
which checks, so that a kernel that several of them need is compiled once.

Triton keeps what it compiled on disk, where every worker finds it: only two that need the same at the same time compile
it twice. Checks are therefore sorted by what they compile, each worker begins with its own stretch of them, and one
that is done takes half of what is left of the longest stretch. So two workers meet in one kernel at the ends of
stretches alone, where the one has compiled it long before the other comes; and none waits while there is work.
"""

import os
from contextlib import suppress
from typing import Any

import pytest
import torch

from conformance import asked, gpus, specialisation
from conformance.check import Check
from conformance.environment import visible_gpus
from conformance.system import NotReady

HIP = torch.version.hip is not None
COUNTED = pytest.StashKey[bool]()
"""Set once the number of workers was made that of the GPUs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many workers share a GPU."""
    parser.getgroup("conformance").addoption(
        "--workers-per-gpu",
        type=asked.positive(int),
        metavar="K",
        help="with -n auto and target gpu: K workers for each GPU (default: 1); they share its memory, and "
        "more of them compile at a time",
    )


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto` is a worker for each GPU, or so many; for other targets, and for `-n logical`, xdist counts CPUs."""
    by_hand = config.option.numprocesses != "auto" or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ
    if by_hand or not asked.for_suite(config):
        return None
    with suppress(*NotReady):  # which is said when the run is configured
        asked.system(config)
    if not _on_gpu(config):
        return None
    config.stash[COUNTED] = True
    return len(visible_gpus()) * (config.getoption("workers_per_gpu") or 1)


@pytest.hookimpl(tryfirst=True)  # before anything asks the driver for a GPU
def pytest_configure(config: pytest.Config) -> None:
    """In a worker: take its GPU. Elsewhere: refuse what would have no effect."""
    worker = getattr(config, "workerinput", None)
    if worker is not None and "gpus" in worker:
        shared = worker["gpus"] if worker["gpus"] is not None else _visible_from_here()
        os.environ.update(gpus.pin(os.environ, shared, gpus.number(worker["workerid"]), hip=HIP))
    if worker is None and config.getoption("workers_per_gpu") and not config.stash.get(COUNTED, False):
        raise pytest.UsageError("--workers-per-gpu is for -n auto and target gpu: it multiplies that number of workers")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker which GPUs it shares with the others of its host; one of another host (None) looks for itself."""
    if _on_gpu(node.config):
        node.workerinput["gpus"] = visible_gpus() if node.gateway.spec.popen else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a GPU, one after the other what needs the same compiled kernels."""
    if _on_gpu(config):
        items.sort(key=_compiled)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """On a GPU, stretches of checks instead of xdist's default; another way of distribution stays as asked for."""
    if config.getoption("dist") != "load" or not _on_gpu(config):
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def _compiled(item: pytest.Item) -> tuple[object, ...]:
    call: Any = getattr(item, "callspec", None)
    checks = [value for value in call.params.values() if isinstance(value, Check)] if call else []
    return specialisation.of(checks[0].case) if checks else ()


def _on_gpu(config: pytest.Config) -> bool:
    return asked.SYSTEM in config.stash and config.stash[asked.SYSTEM].target_kind == "gpu"


def _visible_from_here() -> list[str]:
    """`visible_gpus`, without asking the driver in this process."""
    return gpus.visible(os.environ, hip=HIP, present=gpus.count_apart()) or []
