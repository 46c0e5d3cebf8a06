"""`python -m conformance detect` and its options; light, since the command line imports it for its help."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Adds the command to the others, argparse's own collection of them."""
    parser = commands.add_parser("detect", help="mutate AITER's kernels, and say which mutants the cases do not detect")
    parser.set_defaults(command=_main)
    parser.add_argument("--aiter", metavar="SOURCE", help="a source tree, or a git repository and @REF")
    parser.add_argument("--target", default="interpreter", help="interpreter[:gfx942|gfx950] (default: interpreter)")
    parser.add_argument("--tier", help="which cases judge the mutants (default: smoke)")
    parser.add_argument("--case", action="append", metavar="ID", help="this case instead; may be repeated")
    parser.add_argument("--kernels", default="decode,unified", help="decode, unified or both (default: decode,unified)")
    parser.add_argument("--only", metavar="REGEX", help="the mutants whose id it matches somewhere")
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N shares of the mutants, from 1")
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="children at a time (default: one a CPU)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="append each result there, and continue from it")
    parser.add_argument("--list", action="store_true", help="print the mutants with their diffs, and run none")
    parser.add_argument(
        "--max-seconds-per-case", type=float, metavar="S", help="leave out cases that take more CPU time unmutated"
    )
    parser.add_argument(
        "--max-mib-per-case", type=float, metavar="M", help="leave out cases of larger inputs, sparse caches in full"
    )
    parser.add_argument(
        "--least-time-limit", type=float, default=5, metavar="S",
        help="CPU seconds that a case may take on a mutant even if it takes a tenth of that unmutated (5)",
    )  # fmt: skip
    parser.add_argument("--stop-after", type=float, metavar="S", help="stop then; a record can be continued")
    parser.add_argument("--equivalents", type=Path, metavar="FILE", help="another list of equivalent mutants")


def _main(options: argparse.Namespace, _: list[str]) -> int:
    from conformance.detect import command

    return command.main(options)
