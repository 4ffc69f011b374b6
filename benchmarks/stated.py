"""What papers state, as comparisons that decide it: one list for each page of docs/results; see `statements`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from benchmarks.statements import Expected, Part, Range, Statement

# LeNet-300-100: the paper gives no limits. Below 5 % of the weights accuracy begins to fall, below 2 % steeply.
LOWER, HIGHER, EXTREME = Range(low=0.05), Range(high=0.05), Range(high=0.02)
EARLY = ("magnitude", "snip", "grasp", "synflow")
BOTH = ("shuffled", "reinitialized")


def _ablated(methods: Iterable[str], words: Iterable[str], expected: Expected, densities: Range) -> tuple[Part, ...]:
    return tuple(
        Part(f"{method}, {word}", method, expected, densities) for method, word in itertools.product(methods, words)
    )


def _against(
    label: str, others: Iterable[str], expected: Expected, densities: Range, model: str = ""
) -> tuple[Part, ...]:
    return tuple(Part(label, other, expected, densities, model) for other in others)


FRANKLE = (
    Statement(
        "K.1",
        "SNIP performs best (higher sparsities)",
        _against("snip", ("magnitude", "grasp", "synflow"), "more", HIGHER),
    ),
    Statement(
        "K.1",
        "magnitude at initialization performs worst (higher sparsities)",
        _against("magnitude", ("snip", "grasp", "synflow"), "less", HIGHER),
    ),
    Statement(
        "K.1",
        "magnitude at initialization performs worst (above 10 % of the weights)",
        _against("magnitude", ("snip", "grasp", "synflow"), "less", Range(low=0.1)),
    ),
    Statement(
        "K.1",
        "all methods perform similarly at lower sparsities",
        tuple(Part(one, other, "same", LOWER) for one, other in itertools.combinations(EARLY, 2)),
    ),
    Statement(
        "K.1",
        "magnitude after training is a small fraction of a percent from the early methods (lower sparsities)",
        _against("magnitude-after", EARLY, "same", LOWER),
    ),
    Statement(
        "K.1",
        "the same (higher sparsities)",
        _against("magnitude-after", EARLY, "same", HIGHER),
    ),
    Statement(
        "K.2",
        "magnitude: shuffling and reinitializing do not affect accuracy",
        _ablated(["magnitude"], BOTH, "same", Range()),
    ),
    Statement(
        "K.2",
        "SNIP: shuffling and reinitializing do not affect accuracy at lower sparsities",
        _ablated(["snip"], BOTH, "same", LOWER),
    ),
    Statement("K.2", "SNIP: they do at higher sparsities", _ablated(["snip"], BOTH, "less", HIGHER)),
    Statement(
        "K.2",
        "GraSP: shuffling and reinitializing increase accuracy at lower sparsities",
        _ablated(["grasp"], BOTH, "more", LOWER),
    ),
    Statement("K.2", "GraSP: they hurt it at higher sparsities", _ablated(["grasp"], BOTH, "less", HIGHER)),
    Statement("K.2", "inverting GraSP does hurt accuracy", _ablated(["grasp"], ["inverted"], "less", Range())),
    Statement(
        "K.2",
        "SynFlow is unaffected by shuffling at lower sparsities",
        _ablated(["synflow"], ["shuffled"], "same", LOWER),
    ),
    Statement(
        "K.2",
        "SynFlow is unaffected by reinitializing at all sparsities",
        _ablated(["synflow"], ["reinitialized"], "same", LOWER)
        + _ablated(["synflow"], ["reinitialized"], "same", HIGHER),
    ),
    Statement(
        "K.2",
        "shuffling the early methods does not hurt at lower sparsities",
        _ablated(EARLY, ["shuffled"], "not less", LOWER),
    ),
    Statement("K.2", "it hurts at the most extreme sparsities", _ablated(EARLY, ["shuffled"], "less", EXTREME)),
    Statement(
        "K.2",
        "shuffling affects magnitude after training at much lower sparsities",
        _ablated(["magnitude-after"], ["shuffled"], "less", LOWER),
    ),
    Statement(
        "K.6",
        "iterative SNIP improves accuracy at the most extreme sparsities",
        (Part("iterative-snip", "snip", "more", EXTREME),),
    ),
    Statement(
        "K.7 (5)",
        "GraSP that removes the lowest magnitudes of its scores is better (said of the other networks)",
        (
            Part('grasp (keep="magnitude")', "grasp", "more", LOWER),
            Part('grasp (keep="magnitude")', "grasp", "more", HIGHER),
        ),
    ),
)

_SPARSE = Range(high=0.05)
GEBHART = (
    Statement(
        "5.2",
        "SynFlow-L2 underperforms on skinny networks (FC-100)",
        (Part("synflow-l2", "synflow", "less", model="fc-100"),),
    ),
    Statement(
        "5.2",
        "it is more competitive on wider ones, ahead at high compression (FC-500; said of 1000 and 2000)",
        (Part("synflow-l2", "synflow", "more", _SPARSE, "fc-500"),),
    ),
    Statement(
        "5.2",
        "SynFlow-Dist underperforms SynFlow",
        tuple(Part("synflow-dist", "synflow", "less", model=model) for model in ("fc-100", "fc-500")),
    ),
    Statement(
        "5.2",
        "SynFlow-L2-Dist underperforms SynFlow-L2",
        tuple(Part("synflow-l2-dist", "synflow-l2", "less", model=model) for model in ("fc-100", "fc-500")),
    ),
)

_WIDTHS = ("mlp-bn-100", "mlp-bn-400")


def _errors(label: str, others: Iterable[str]) -> tuple[Part, ...]:
    """`label` has the lower error, at both widths."""
    return tuple(Part(label, other, "less", model=model) for model in _WIDTHS for other in others)


PATIL = (
    Statement("B.1", "PHEW performs better than SynFlow and SynFlow-L2", _errors("phew", ("synflow", "synflow-l2"))),
    Statement("B.1", "PHEW performs better than SNIP", _errors("phew", ("snip",))),
    Statement("B.1", "PHEW performs better than GraSP", _errors("phew", ("grasp",))),
    Statement(
        "B.1",
        "SNIP performs worse than the data-agnostic methods",
        tuple(part for method in ("phew", "synflow", "synflow-l2") for part in _errors(method, ("snip",))),
    ),
    Statement(
        "B.1",
        "GraSP performs worse than the data-agnostic methods",
        tuple(part for method in ("phew", "synflow", "synflow-l2") for part in _errors(method, ("grasp",))),
    ),
    Statement("figure 4 (classification)", "PHEW performs better than random pruning", _errors("phew", ("random",))),
)

_OTHERS = ("random", "magnitude", "snip", "grasp", "synflow")
_MIDDLE, _LAST = Range(0.04, 0.2), Range(high=0.04)  # 89.3 and 95.6 %, 98.2 %
RESNET_20 = (
    Statement("73.8 to 95.6 %", "NTK-SAP is first", _against("ntk-sap", _OTHERS, "more", Range(low=0.04))),
    Statement("98.2 %", "NTK-SAP is first", _against("ntk-sap", _OTHERS, "more", _LAST)),
    Statement(
        "89.3 and 95.6 %",
        "random pruning is last",
        _against("random", ("snip", "grasp", "synflow", "ntk-sap"), "less", _MIDDLE),
    ),
    Statement("98.2 %", "random pruning is last", _against("random", (*_OTHERS[1:], "ntk-sap"), "less", _LAST)),
    Statement(
        "89.3 and 95.6 %", "GraSP is level with SNIP or ahead", _against("grasp", ("snip",), "not less", _MIDDLE)
    ),
    Statement(
        "95.6 %",
        "SynFlow is behind SNIP and magnitude",
        _against("synflow", ("snip", "magnitude"), "less", Range(0.04, 0.1)),
    ),
    Statement(
        "98.2 %",
        "GraSP is ahead of SynFlow, magnitude and SNIP",
        _against("grasp", ("synflow", "magnitude", "snip"), "more", _LAST),
    ),
)

PAGES = {
    "frankle-lenet-mnist": FRANKLE,
    "gebhart-fc-mnist": GEBHART,
    "patil-transformation": PATIL,
    "resnet-20-cifar-10": RESNET_20,
}
