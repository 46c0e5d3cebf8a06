"""Features: every check of every tier has a step, and each rule says what its words say, on both sides of its edge."""

from functools import cache

import pytest

from conformance.case import Case
from conformance.check import Check, of_tier
from conformance.features import FEATURES, LSE, of
from conformance.graphs import GraphRelation
from conformance.manifest import GROUPS

PLAIN = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"


def names(text: str, **result: float) -> set[str]:
    return {feature.name for feature in of(Check.parse(text), [result])}


def plain(change: tuple[str, str] = ("", "")) -> str:
    """PLAIN with one part of its id replaced."""
    part, other = change
    assert part in PLAIN, part
    return PLAIN.replace(part, other)


@cache
def every_check() -> list[Check]:
    """Those of the largest tier, which holds the others, and of groups."""
    return [check for tier in ("full", *GROUPS) for check in of_tier(tier)]


def test_every_check_of_every_tier_has_a_step() -> None:
    assert len(every_check()) > 5_000
    for check in every_check():
        assert any(feature.step for feature in of(check)), check.id


def test_every_feature_is_that_of_some_check_of_a_tier_or_of_these_tests() -> None:
    of_tiers = {feature.name for check in every_check() for feature in of(check, [{"lse": 0.1}])}
    assert {feature.name for feature in FEATURES} - of_tiers <= EDGES.keys() | STEPS.keys()


def test_no_two_features_have_one_name_and_all_say_what_they_are() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert all(feature.meaning for feature in FEATURES)


def test_a_plain_case_has_these_features_and_no_others() -> None:
    assert names(PLAIN) == {
        "causal decode", "draft", "speculative verify", "bf16", "packed cache", "pages of 16 keys", "GQA ratio 2 to 8",
        "head dim 64",
    }  # fmt: skip


EDGES: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    # feature: what makes it of PLAIN, and what just does not
    "non-causal decode": (("causal", "noncausal"), ("", "")),
    "single token": (("q4", "q1"), ("q4", "q2")),
    "draft": (("q4", "q17"), ("q4", "q18")),
    "longer decode": (("q4", "q18"), ("q4", "q17")),
    "speculative verify": (("q4", "q2"), ("q4", "q1")),
    "ragged": (("q4", "q4+3"), ("q4", "q3")),
    "window left": (("-packed", "-w9:inf-packed"), ("-packed", "-winf:3-packed")),
    "softcap": (("-packed", "-softcap30-packed"), ("", "")),
    "sinks": (("-packed", "-sinks-packed"), ("", "")),
    "ALiBi": (("-packed", "-alibi-packed"), ("", "")),
    "scale": (("-packed", "-scale0.5-packed"), ("", "")),
    "fp8 cache e4m3fn": (("-packed", "-cache.e4m3fn-packed"), ("-packed", "-cache.e4m3fnuz-packed")),
    "fp8 cache e4m3fnuz": (("-packed", "-cache.e4m3fnuz-packed"), ("-packed", "-cache.e4m3fn-packed")),
    "fp8 cache e5m2": (("-packed", "-cache.e5m2-packed"), ("-packed", "-cache.e4m3fn-packed")),
    "fp8 queries": (("-packed", "-q.e4m3fn-packed"), ("-packed", "-cache.e4m3fn-packed")),
    "per-head descales": (("-packed", "-cache.e4m3fn-descale.head-packed"), ("-packed", "-cache.e4m3fn-packed")),
    "per-sequence descales": (("-packed", "-cache.e4m3fn-descale.seq-packed"), ("-packed", "-cache.e4m3fn-packed")),
    "fp16": (("bf16", "fp16"), ("", "")),
    "contiguous cache": (("packed", "contiguous"), ("packed", "padded")),
    "other layouts": (("packed", "sliced"), ("packed", "contiguous")),
    "pages of 1 key": (("p16", "p1"), ("p16", "p2")),
    "pages of another power of two": (("p16", "p128"), ("p16", "p256")),
    "pages of 256 keys or more": (("p16", "p544"), ("p16", "p255")),
    "pages not a power of two": (("p16", "p48"), ("p16", "p32")),
    "shared prefix": (("-packed", "-pages.shared-packed"), ("-packed", "-pages.ascending-packed")),
    "wide block table": (("-packed", "-table2x-packed"), ("", "")),
    "large page ids": (("-packed", "-pages.high-packed"), ("-packed", "-pages.ascending-packed")),
    "caches above 2^31 elements": (("-packed", "-pages.huge-packed"), ("-packed", "-pages.high-packed")),
    "GQA ratio 1": (("h4:2", "h2:2"), ("", "")),
    "GQA ratio 16 or more": (("h4:2", "h32:2"), ("h4:2", "h16:2")),
    "GQA ratio not a power of two": (("h4:2", "h24:2"), ("h4:2", "h16:2")),
    "one KV head": (("h4:2", "h2:1"), ("", "")),
    "head dim 512": (("d64", "d512"), ("d64", "d256")),
    "head dim of another power of two": (("d64", "d32"), ("", "")),
    "head dim not a power of two": (("d64", "d80"), ("", "")),
    "fused q": (("-packed", "-q.fused-packed"), ("", "")),
    "padded batch": (("kv100+37", "kv100+0"), ("kv100+37", "kv0")),
    "idle sequence": (("q4", "q4+0"), ("q4", "q4+1")),
    "empty contexts": (("kv100+37", "kv0"), ("kv100+37", "kv100+0")),
    "short contexts": (("kv100+37", "kv100+3"), ("kv100+37", "kv100+4")),
    "long context": (("kv100+37", "kv4097+37"), ("kv100+37", "kv4096+37")),
    "more than 512 keys": (("-packed", "-max513-packed"), ("kv100+37", "kv512+37")),
    "bound of keys above the keys": (("-packed", "-max101-packed"), ("kv100+37", "kv600+37")),
    "unused memory holds NaN": (("random", "poison.tails"), ("", "")),
    "logits far from 0": (("random", "shifted"), ("random", "needle")),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_a_feature_begins_and_ends_where_it_says(name: str) -> None:
    inside, outside = EDGES[name]
    assert name in names(plain(inside))
    assert name not in names(plain(outside))


STEPS = {
    "causal prefill": ("prefill-causal-bf16-b2-q100+37-h4:2-d64-p16-kv100+37-t8-packed-random",
                       "extend-causal-bf16-b2-q99+36-h4:2-d64-p16-kv100+37-t8-packed-random"),
    "non-causal prefill": ("mixed-noncausal-bf16-b2-q20+37-h4:2-d64-p16-kv100+37-t8-packed-random",
                           "mixed-causal-bf16-b2-q20+37-h4:2-d64-p16-kv100+37-t8-packed-random"),
    "causal extend": ("extend-causal-bf16-b2-q9-h4:2-d64-p16-kv100+37-t8-packed-random",
                      "mixed-causal-bf16-b2-q8+37-h4:2-d64-p16-kv100+37-t8-packed-random"),
    "non-causal extend": ("mixed-noncausal-bf16-b2-q8+9-h4:2-d64-p16-kv100+37-t8-packed-random",
                          "prefill-noncausal-bf16-b2-q100+37-h4:2-d64-p16-kv100+37-t8-packed-random"),
    "mixed batch": ("mixed-causal-bf16-b2-q8+9-h4:2-d64-p16-kv100+37-t8-packed-random",
                    "extend-causal-bf16-b2-q9-h4:2-d64-p16-kv100+37-t8-packed-random"),
    "extend with a window": ("extend-causal-bf16-b2-q9-h4:2-d64-p16-kv100+37-w9:inf-t8-packed-random",
                             "prefill-causal-bf16-b2-q100+37-h4:2-d64-p16-kv100+37-w9:inf-t8-packed-random"),
    "extend in chunks": ("extend-causal-bf16-b2-q9-h4:2-d64-p16-kv100+37-t8-chunk64-packed-random",
                         "extend-causal-bf16-b2-q9-h4:2-d64-p16-kv100+37-t8-packed-random"),
    "causal decode": ("mixed-causal-bf16-b2-q8+9-h4:2-d64-p16-kv100+37-t8-packed-random",
                      "mixed-causal-bf16-b2-q9+37-h4:2-d64-p16-kv100+37-t8-packed-random"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_that_of_a_sequence(name: str) -> None:
    inside, outside = STEPS[name]
    assert name in names(inside)
    assert name not in names(outside)


def test_what_decodes_in_a_mixed_batch_says_what_a_decode_is() -> None:
    """A prompt of any length beside it makes no draft longer and no batch of drafts ragged."""
    mixed = "mixed-causal-bf16-b4-q{}+20+33-h4:2-d64-p16-kv100+9+150+33-t8-packed-random"
    assert names(mixed.format("4x2")) > {"draft", "speculative verify", "mixed batch"}
    assert not names(mixed.format("4x2")) & {"ragged", "longer decode", "single token"}
    assert names(mixed.format("1x2")) > {"single token"}
    assert names(mixed.format("1+4")) > {"ragged", "draft"}


def test_a_window_has_the_sides_that_cut_something() -> None:
    windows = {"w9:inf": "window left", "winf:3": "window right", "w9:3": "window on both sides"}
    noncausal = {word: names(plain(("-packed", f"-{word}-packed")).replace("causal", "noncausal")) for word in windows}
    assert {word: {name for name in found if "window" in name} for word, found in noncausal.items()} == {
        word: {name} for word, name in windows.items()
    }
    assert "window left" in names(plain(("-packed", "-w9:3-packed"))), "a causal query has nothing to its right"


def test_what_a_graph_captures_says_nothing_of_its_case() -> None:
    assert names(f"graph.lengths/{PLAIN}", lse=0.1) == {"causal decode", "graph capture: lengths"}
    assert names(f"host.reads/{PLAIN}") == {"causal decode", "no host read"}
    graphs = [check for check in of_tier("smoke") if isinstance(check.relation, GraphRelation)]
    assert {len(of(check)) for check in graphs} == {2}


def test_a_relation_says_something_of_its_case() -> None:
    assert names(f"repeated/{PLAIN}") == names(PLAIN) | {"invariances"}
    assert names(f"pages.resized/{PLAIN}") == names(PLAIN) | {"agreement"}


def test_an_lse_is_a_feature_of_what_has_one() -> None:
    check = Check(Case.parse(PLAIN))
    assert LSE in of(check, [{}, {"lse": 0.0}])
    assert LSE not in of(check, [{}, {"bound": 0.1}])
