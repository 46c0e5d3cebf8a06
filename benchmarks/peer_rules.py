"""The comparison rules of other projects' attention tests, and ours, over the planted defects: what each would catch.

    python -m benchmarks.peer_rules            a quarter of an hour on one core; tables in Markdown, progress to stderr
    python -m benchmarks.peer_rules --quick    two short lengths, one seed: seconds

Exit code 0, or 3 where it was interrupted: the tables then hold the lengths that were finished.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence

import torch

from benchmarks.comparison_rules import OURS, RAGGED_RULES, RULES, Rule
from benchmarks.drawn_inputs import HEAD_DIM, KV_HEADS, PAGE, Q_HEADS, QUERIES, SEQUENCES, SHORT
from benchmarks.trials import Measured, Tally, Trial, choose, measure, why_hidden
from tests.harness.defects import DEFECTS

LENGTHS = (64, 512, 2048, 8192, 32768)
QUICK = (64, 512)
SEEDS = 3

INCOMPLETE = 3


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rules_table(measured: Measured) -> str:
    """Rows: rules. Share of the defects shown at a length that the rule catches; share of correct answers it fails."""
    tally, lengths = measured.even, measured.lengths
    counted = [sum(bool(tally.counted(defect, n)) for defect in DEFECTS) for n in lengths]
    head = [
        "",
        "rule",
        "inputs",
        *(f"{n:,} ({count})" for n, count in zip(lengths, counted, strict=True)),
        "false alarms",
    ]
    rows = []
    for at, rule in enumerate(RULES):
        alarms = [alarm for n in lengths for alarm in tally.alarms[at, n]]
        false = f"{sum(alarms)} of {len(alarms)}"
        rows.append([str(at + 1), rule.name, rule.draw.name, *(caught_share(tally, [at], n) for n in lengths), false])
    rows.append(["", f"{OURS}, together", "", *(caught_share(tally, our_rows(), n) for n in lengths), ""])
    return table(head, rows)


def our_rows() -> list[int]:
    """The places of our rule: the suite runs all of its inputs against every kernel."""
    return [at for at, rule in enumerate(RULES) if rule.name == OURS]


def caught_share(tally: Tally, rules: Sequence[int], length: int) -> str:
    """Of the defects that a length shows, the share that one of the rules catches."""
    outcomes = [tally.catches(rules, defect, length) for defect in DEFECTS]
    shown = [outcome for outcome in outcomes if outcome is not None]
    return f"{sum(shown) / len(shown):.0%}" if shown else "-"


def defects_table(measured: Measured) -> str:
    """Rows: defects. Columns: rules by number. The longest context at which the rule catches the defect."""
    tally = measured.even
    shown = {defect: [n for n in measured.lengths if tally.counted(defect, n)] for defect in DEFECTS}
    rows = [
        [defect, *(longest(tally, at, defect, lengths) for at in range(len(RULES)))]
        for defect, lengths in shown.items()
        if lengths
    ]
    return table(["defect", *(str(at + 1) for at in range(len(RULES)))], rows)


def longest(tally: Tally, at: int, defect: str, lengths: list[int]) -> str:
    """The longest of the lengths at which a rule catches a defect, starred where it misses it at a shorter one."""
    caught = [n for n in lengths if tally.catches([at], defect, n)]
    if not caught:
        return "-"
    if caught == lengths:
        return "all"
    return f"{caught[-1]:,}" + ("" if caught == lengths[: len(caught)] else "*")


def ragged_table(measured: Measured) -> str:
    """Rows: rules. Shares caught where only the long sequence is wrong, and where both are."""
    lengths = [n for n in measured.lengths if n > 4 * SHORT]
    rows = []
    for at, rule in enumerate(RAGGED_RULES):
        parts = (tuple(caught_share(tally, [at], n) for tally in (measured.long_only, measured.both)) for n in lengths)
        rows.append([rule.name, rule.draw.name, *(f"{long_only} / {both}" for long_only, both in parts)])
    return table(["rule", "inputs", *(f"{n:,}" for n in lengths)], rows)


def hidden_list(measured: Measured, hidden: list[tuple[str, str]]) -> str:
    """The defects that no output of these calls shows, by what would show them."""
    by_reason: dict[str, dict[str, None]] = {}
    for defect, mode in hidden:
        in_part = any(measured.even.counted(defect, n) for n in measured.lengths)
        by_reason.setdefault(why_hidden(defect, mode), {})[f"{defect} ({mode})" if in_part else defect] = None
    return "\n".join(f"* {reason}: {', '.join(defects)}" for reason, defects in by_reason.items()) or "None."


def sources(rules: list[Rule]) -> str:
    """Where each rule is from, after its numbers."""
    numbers: dict[str, list[str]] = {}
    for at, rule in enumerate(rules, 1):
        numbers.setdefault(f"{rule.name}. {rule.source}", []).append(str(at))
    return "\n".join(f"* {', '.join(at)}: {text}" for text, at in numbers.items())


def shape(measured: Measured) -> str:
    """What was run."""
    return (
        f"{SEQUENCES} sequences of {QUERIES} queries, {Q_HEADS}:{KV_HEADS} heads of {HEAD_DIM}, pages of {PAGE}, bf16 "
        f"unless stated; seeds: {measured.seeds}. "
        "A context has 3 keys fewer than its column says, and a seed one fewer again."
    )


def report(measured: Measured, trials: list[Trial], hidden: list[tuple[str, str]]) -> str:
    """All tables, with what is needed to read them."""
    calls = ", ".join(dict.fromkeys(trial.call.name for trial in trials))
    return "\n\n".join(
        [
            "### Caught, by rule and context length",
            shape(measured),
            rules_table(measured),
            "In brackets, the defects that count at a length: those whose output there differs from the correct "
            "kernel's, in any bit and with every seed, on unit normal inputs. Inputs that hide a defect miss it. "
            f"A defect is tried in the first call that shows it ({calls}), in every mode it has, and is caught if the "
            "rule fails it in all of them and with every seed.",
            "### Longest context at which a defect is caught",
            defects_table(measured),
            '"all": at every length at which the defect shows; "-": at none; a star: missed at some shorter length.',
            f"### A ragged batch: {SHORT} keys, and as many as the column says",
            ragged_table(measured),
            "Share caught where the long sequence alone is wrong / where both are; plain calls only.",
            "### Not shown by these outputs",
            hidden_list(measured, hidden),
            "### The rules",
            sources(RULES),
        ]
    )


def positive(text: str) -> int:
    """A number of seeds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return int(text)


def context(text: str) -> int:
    """A context length that leaves every seed enough keys for its queries and a window."""
    if not text.isdecimal() or int(text) < 2 * SHORT:
        raise argparse.ArgumentTypeError(f"not a number of at least {2 * SHORT}: {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer_rules", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} and {QUICK[1]} keys, one seed")
    parser.add_argument(
        "--lengths", type=context, nargs="+", metavar="KEYS", help="context lengths instead of the five"
    )
    parser.add_argument("--seeds", type=positive, help=f"how often inputs are drawn (default {SEEDS})")
    options = parser.parse_args(arguments)
    lengths: list[int] = sorted(set(options.lengths or (QUICK if options.quick else LENGTHS)))
    seeds = options.seeds or (1 if options.quick else SEEDS)

    torch.set_num_threads(1)
    trials, hidden = choose()
    measured = Measured(seeds)
    try:
        for measured in measure(trials, lengths, seeds):  # noqa: B007
            pass
    except KeyboardInterrupt:
        print(f"interrupted: {len(measured.lengths)} of {len(lengths)} lengths finished", file=sys.stderr)
    if measured.lengths:
        print(report(measured, trials, hidden))
    return 0 if measured.lengths == lengths else INCOMPLETE


if __name__ == "__main__":
    sys.exit(main())
