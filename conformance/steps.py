"""From a batch that decodes to a step that does other things too: some of its sequences extend, or prefill."""

from collections.abc import Iterable
from dataclasses import replace

from conformance.case import Case, kind_of


def step_of(case: Case, threshold: int, *, prefills: Iterable[bool], chunk: int = 0) -> Case:
    """The case in which sequences of more than `threshold` queries prefill, where `prefills` says so, or extend.

    Those have as many keys as queries, these at least one more. Sequences keep their order as far as their kinds let
    them. It is the same case where none has so many. Raises BadCase where the new lengths have no page to share.
    """
    if threshold >= max(case.query_lens):
        return case
    lens = [
        (m, n if m <= threshold else m if prefill else max(n, m + 1))
        for m, n, prefill in zip(case.query_lens, case.seq_lens, prefills, strict=False)
    ]
    kinds = [kind_of(m, n, threshold) for m, n in lens]
    order = sorted(range(case.batch), key=kinds.__getitem__)
    query_lens, seq_lens = zip(*(lens[b] for b in order), strict=True)
    bound = case.max_keys and max(case.max_keys, *seq_lens)
    step = replace(case, query_lens=query_lens, seq_lens=seq_lens, max_keys=bound, decode_threshold=threshold)
    return replace(step, chunk=chunk) if step.takes_chunks else step
