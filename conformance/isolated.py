"""The child of `conformance.isolate`: reads ids of checks, runs each, answers with a line of JSON."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys

import torch

from conformance import environment
from conformance.check import Check
from conformance.outcome import of_check
from conformance.status import Status
from conformance.system import NotReady, choose
from conformance.targets import Target


def main() -> None:
    """Serves until there are no more questions, or until its GPU is lost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", type=int)
    parser.add_argument("answers", type=int)
    for name in ("--backend", "--target", "--aiter"):
        parser.add_argument(name)
    options, _ = parser.parse_known_args()  # what else chooses a run is the parent's: expectations, for one
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its child

    def answer(**content: object) -> None:
        line = json.dumps(content).encode() + b"\n"
        while line:
            line = line[os.write(options.answers, line) :]

    try:
        system = choose(options.backend, options.target, options.aiter)
        target = system.start()
    except NotReady as error:
        answer(refused=str(error))
        return
    answer(target=target.name, environment=environment.describe(target))
    with os.fdopen(options.questions) as questions:
        for question in questions:
            outcome = of_check(Check.parse(question.rstrip("\n")), system, target)
            lost = "" if outcome.status in (Status.PASS, Status.UNSUPPORTED) else _why_gpu_is_lost(target)
            answer(result=outcome.result, text=outcome.text, lost=lost)
            if lost:
                os._exit(1)  # whatever is cleaned up at exit would ask the GPU again


def _why_gpu_is_lost(target: Target) -> str:
    """What the driver says after a fault: every later call of the process fails with it. "" if the GPU still works."""
    if target.kind != "gpu":
        return ""
    try:
        torch.ones(1, device=target.device).add_(1)
        torch.cuda.synchronize()
    except Exception as error:  # torch raises several kinds
        return str(error).splitlines()[0]
    return ""


if __name__ == "__main__":
    sys.exit(main())
