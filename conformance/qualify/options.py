"""`python -m conformance qualify` and its options; light, since the command line imports it for its help."""

import argparse
from pathlib import Path
from typing import Any

from conformance.asked import positive


def add(commands: Any) -> None:
    """Adds the command to the others, argparse's own collection of them."""
    parser = commands.add_parser("qualify", help="run several versions of AITER, and show them side by side")
    parser.set_defaults(command=_main)
    parser.add_argument("--aiter", nargs="+", action="extend", default=[], metavar="SOURCE",
                        help="the versions: source trees, REPOSITORY@REF, @REF of the repository before it, or "
                             "REPOSITORY@A..B; without it, the table of what the folder holds")  # fmt: skip
    parser.add_argument("--every", default="tag", metavar="tag|N",
                        help="which versions of a range A..B: every tag, or every N-th commit that changes a kernel "
                             "(default: tag)")  # fmt: skip
    parser.add_argument("--tier", default="smoke", help="which checks (default: smoke)")
    parser.add_argument("--backend", default="aiter", help="the system under test (default: aiter)")
    parser.add_argument("--target", action="append", metavar="TARGET", help="as of run; may be repeated")
    parser.add_argument("--python", action="append", type=Path, metavar="ENV",
                        help="run in this virtual environment, with its torch and Triton; may be repeated")  # fmt: skip
    parser.add_argument("--expectations", action="append", default=[], metavar="FILE", help="more known gaps")
    parser.add_argument("--no-expectations", action="store_true", help="leave out the gaps that come with the suite")
    parser.add_argument("-j", "--jobs", type=positive(int), default=1, metavar="N", help="versions at a time (1)")
    parser.add_argument("-n", dest="workers", metavar="N", help="workers of each run, as of run -n")
    parser.add_argument("--again", action="store_true", help="run what has a result too; the old ones are kept aside")
    parser.add_argument("-o", "--output", type=Path, default=Path("qualification"), metavar="DIR",
                        help="one record for each version, target, torch and Triton (qualification)")  # fmt: skip
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text")


def _main(options: argparse.Namespace, _: list[str]) -> int:
    from conformance.qualify import command

    return command.main(options)
