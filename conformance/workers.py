"""The part of the plugin that spreads a run over the GPUs of a host: how many workers, and which GPU each one takes."""

import os
from typing import Any

import pytest
import torch

from conformance import asked, gpus
from conformance.system import NotReady

HIP = torch.version.hip is not None
COUNTED = pytest.StashKey[bool]()
"""Set once the number of workers was made that of the GPUs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many workers share a GPU."""
    parser.getgroup("conformance").addoption(
        "--workers-per-gpu",
        type=_positive,
        metavar="K",
        help="with -n auto and target gpu: K workers for each GPU (default: 1); they share its memory, and "
        "more of them compile at a time",
    )


def _positive(word: str) -> int:
    if int(word) < 1:
        raise ValueError
    return int(word)


_positive.__name__ = "positive number"  # how argparse calls it


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto` is a worker for each GPU, or so many; for other targets, and for `-n logical`, xdist counts CPUs."""
    by_hand = config.option.numprocesses != "auto" or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ
    if by_hand or not asked.for_suite(config):
        return None
    try:
        on_gpu = asked.system(config).on_gpu
    except NotReady:  # which is said when the run is configured
        return None
    if not on_gpu:
        return None
    config.stash[COUNTED] = True
    return len(_visible()) * (config.getoption("workers_per_gpu") or 1)


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
    if asked.SYSTEM in node.config.stash and asked.system(node.config).on_gpu:
        node.workerinput["gpus"] = _visible() if node.gateway.spec.popen else None


def _visible() -> list[str]:
    """The GPUs of this process. Asking the driver does no harm here: workers are processes of their own."""
    return gpus.visible(os.environ, hip=HIP, present=torch.cuda.device_count()) or []


def _visible_from_here() -> list[str]:
    """The same without asking the driver."""
    return gpus.visible(os.environ, hip=HIP, present=gpus.count_apart()) or []
