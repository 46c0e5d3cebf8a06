"""Relations: two calls whose answers must agree, whatever the right answer is.

A kernel that is wrong in the same way for every input of its kind, or an oracle that is wrong with it, passes every
comparison with the oracle; it does not pass these. Most ask for equal bits, which no tolerance can soften.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from conformance import second_calls
from conformance.case import LARGEST, MOST_SEQUENCES, Case
from conformance.inputs import Inputs, make, random_bits, with_new_tokens
from conformance.second_calls import SHIFT, Call

VERSION = 1
"""Part of the digest of every relation's result: raise it when a second call, or what is compared, changes."""


@dataclass(frozen=True)
class Relation:
    """How a second call is made of a first one, and how the two answers must agree.

    `second` gets inputs that it may change in place, and a source of random bits that is the case's.
    """

    name: str
    says: str  # what the second call is
    applies: Callable[[Case], bool]
    needs: str  # what the cases to which it applies have
    second: Callable[[Case, Inputs, np.random.PCG64], Call]
    bitwise: bool = True
    prepare: Callable[[Inputs], None] | None = None  # changes the inputs of both calls first, in place
    shares: bool = False  # both calls get the same tensors
    risky: bool = False  # a kernel that is wrong here might take its process along

    @property
    def demand(self) -> str:
        """How the answers must agree, in words."""
        return "equal bit for bit" if self.bitwise else "equal but for what both may err by"

    def calls(self, case: Case) -> tuple[Call, Call]:
        """The two calls, on the CPU; unless they share tensors they share no memory: neither can change the other's."""
        first = make(case)
        inputs = first if self.shares else make(case)
        if self.prepare is not None:
            for each in (first, inputs):
                self.prepare(each)
        second = self.second(case, inputs, random_bits(f"{self.name}/{case.id}"))
        if self.shares:
            return Call(case, first), second
        # What the caches hold of new tokens may have changed, and where.
        calls = (Call(case, first), second)
        one, two = (replace(call, inputs=with_new_tokens(call.case, call.inputs)) for call in calls)
        return one, two


# -- to which cases a relation applies ---------------------------------------------------------------------------------


def _always(_: Case) -> bool:
    return True


def _small_cache(case: Case) -> bool:
    """Caches with 65,536 pages more than they need are made to stay untouched: a copy of them takes gigabytes."""
    return case.page_order not in ("high", "huge")


def _has_clean_pages(case: Case) -> bool:
    return _small_cache(case) and case.regime != "poison.pages"


def _has_tails(case: Case) -> bool:
    return _small_cache(case) and case.regime != "poison.tails" and any(n % case.page_size for n in case.seq_lens)


def _has_harmless_tails(case: Case) -> bool:
    return _has_tails(case) and case.regime != "poison.garbage"


def _has_unused_entries(case: Case) -> bool:
    return case.regime != "poison.table" and min(case.pages) < max(1, *case.pages) * case.table_width


def _sees_and_sums_to_one(case: Case) -> bool:
    """Every query sees a key, which a sequence's first query does last, and no sink takes a share of the weight."""
    reach = 0 if case.causal else case.window[1]
    bounded = reach >= 0
    return _small_cache(case) and not case.sinks and all(
        not m or (n and (n >= m or not bounded or n - m + reach >= 0))
        for m, n in zip(case.query_lens, case.seq_lens, strict=True)
    )  # fmt: skip


SMALL = "a cache that can be copied"

RELATIONS = {
    relation.name: relation
    for relation in (
        Relation("repeated", "the same call once more", _always, "", second_calls.repeated, shares=True),
        Relation("pages.renamed", "the same keys in other physical pages", _small_cache, SMALL, second_calls.renamed),
        Relation("poison.pages", "the same call with NaN in pages that no sequence owns",
                 _has_clean_pages, f"other pages than NaN, in {SMALL}", second_calls.poisoned_pages),
        Relation("poison.tails", "the same call with NaN in the rows after each last key",
                 _has_tails, f"a partial last page without NaN, in {SMALL}", second_calls.poisoned_tails),
        Relation("poison.garbage", "the same call with huge values in the rows after each last key",
                 _has_harmless_tails, f"a partial last page without NaN or garbage, in {SMALL}",
                 second_calls.garbage_tails),
        Relation("poison.table", "the same call with table entries out of range past each sequence's last page",
                 _has_unused_entries, "unused table entries that are in range", second_calls.poisoned_table,
                 risky=True),
        Relation("batch.permuted", "the same sequences in reverse order",
                 lambda case: case.batch > 1 and case.step != "mixed", "several sequences of one kind",
                 second_calls.reversed_batch),
        Relation("single.query", "the same call as the other mode has it, causal or not",
                 lambda case: max(case.query_lens) == 1, "at most one query a sequence",
                 second_calls.other_mode, bitwise=False),
        Relation("draft.unrolled", "each query alone, in a sequence that ends where it stands",
                 lambda case: case.causal and max(case.query_lens) > 1 and case.tokens <= MOST_SEQUENCES,
                 "causal drafts of several queries", second_calls.unrolled, bitwise=False),
        Relation("pages.resized", "the same keys in pages of another size",
                 _small_cache, SMALL, second_calls.resized, bitwise=False),
        Relation("keys.bounded", "the same call, told a larger upper bound of its keys",
                 lambda case: not case.max_keys and max(case.seq_lens) <= LARGEST // 2,
                 "no bound of its keys yet, and room for a larger one", second_calls.bounded, bitwise=False),
        Relation("values.shifted", f"the same call with {SHIFT:g} added to all of V, less that much of its output",
                 _sees_and_sums_to_one, f"a key for every query, no sinks, and {SMALL}",
                 second_calls.shifted, bitwise=False, prepare=second_calls.on_a_grid),
    )
}  # fmt: skip
"""Every relation, by its name."""
