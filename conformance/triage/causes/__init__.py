"""The table of counterfactuals: what a kernel may do wrong, in the order in which it goes through its work."""

from conformance.triage.causes import heads, keys, masks, memory, pages, precision, scores, softmax, stored

TABLE = (
    *masks.TABLE,
    *keys.TABLE,
    *pages.TABLE,
    *memory.TABLE,
    *heads.TABLE,
    *scores.TABLE,
    *softmax.TABLE,
    *stored.TABLE,
    *precision.TABLE,
)
"""All of them."""

BY_NAME = {cause.name: cause for cause in TABLE}
