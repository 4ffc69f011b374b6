"""Every input-output path of a small network, one by one.

The network runs once with open gates. Each operation that uses weights is cut out and replaced by fresh leaves, so that
everything between the cuts is linear and free of weights: autograd gives the coefficients from one cut to the next and,
inside a cut, which weight connects which entries. Paths are then read off from input to output, along entries that
still reach the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Inputs
from foreprune.graph.sums.counted import COUNTED, EVERY_PATH, WEIGHTED
from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, Handlers, PathError, graph_nodes, known_flow
from foreprune.graph.sums.paths import PathGraph
from foreprune.graph.sums.reached import uses_weights
from foreprune.graph.vocabulary import Family

Weight = tuple[str, int]  # name of the parameter, position in the flattened tensor
_MOST_ENTRIES = 2**24  # of one matrix from cut to cut
_MOST_EDGES = 2**26  # entries before times entries after times weights of one cut
_LEADING = "ask for the leading eigenvalues: path_kernel(..., leading=10)"


@dataclass(frozen=True)
class Path:
    """One path.

    Attributes:
        start: entry of the flattened input (of all input tensors in order) where it begins.
        end: entry of the flattened output where it ends.
        weights: those along the path, in order.
        coefficient: product of the constants along the path, such as 1/n of an average; of the scales of
            normalizations the squares, as in sums of squared weights.
    """

    start: int
    end: int
    weights: tuple[Weight, ...]
    coefficient: float


def every_path(net: Net, inputs: Inputs, masks: Masks) -> list[Path]:
    """All paths along kept weights. Their number must be small: check it before.

    Raises:
        PathError: an operation that uses weights in a way that cannot be taken apart (torch's own attention).
        ValueError: layers too large for the matrices between them.
    """
    cuts = _Dissection.of(net, inputs, EVERY_PATH, inside=True)
    counted = _Dissection.of(net, inputs, COUNTED, inside=False)
    kept = {name: mask.flatten().tolist() for name, mask in masks.items()}
    for stage in cuts.cuts:
        stage.inside = [e for e in stage.inside if e.weight[0] not in kept or kept[e.weight[0]][e.weight[1]]]
    live = _live(cuts, counted)
    ways: list[list[list[Path]]] = []  # for each leaf tensor and entry, how one can get there; `end` is that entry
    first = 0
    for leaf, tensor in enumerate(cuts.leaves):
        here: list[list[Path]] = [[] for _ in range(tensor.numel())]
        cut = cuts.origin[leaf]
        if cut is None:
            for entry in live[leaf]:
                here[entry] = [Path(first + entry, entry, (), 1.0)]
            first += tensor.numel()
        else:
            arriving = _arriving(ways, cuts.cuts[cut], counted.cuts[cut])
            for edge in cuts.cuts[cut].inside:
                if edge.stop in live[leaf]:
                    here[edge.stop] += [_along(way, edge) for way in arriving[edge.start]]
        ways.append(here)
    arriving = _arriving(ways, cuts.cuts[-1], counted.cuts[-1])
    return [Path(way.start, end, way.weights, way.coefficient) for end, here in enumerate(arriving) for way in here]


@dataclass(frozen=True)
class _Edge:
    start: int
    stop: int
    weight: Weight
    coefficient: float


@dataclass
class _Cut:
    """One use of weights, or the output."""

    before: list[Tensor]  # for each leaf so far, the matrix (entries here, entries of the leaf); empty without a link
    inside: list[_Edge] = field(default_factory=list)


@dataclass
class _Dissection:
    """A run of the network with a cut wherever weights are used."""

    ones: dict[str, Tensor]
    inside: bool  # whether to look for the weights inside each cut
    cuts: list[_Cut] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    origin: list[int | None] = field(default_factory=list)  # for each leaf the cut it stands for; None: an input
    gates: Gates | None = None

    @classmethod
    def of(cls, net: Net, inputs: Inputs, handlers: Handlers, *, inside: bool) -> _Dissection:
        real = {name: value for name, value in net.params.items() if value.is_floating_point()}
        found = cls({n: torch.ones_like(v, dtype=torch.float64).requires_grad_() for n, v in real.items()}, inside)
        cutting = {family: found._cutting(handlers[family]) for family in (*WEIGHTED, Family.MULTIPLICATION)}
        output, exponent = PathGraph(net, inputs, {**handlers, **cutting}, power=2).outputs(found.ones)
        found._arrive(output, exponent)
        return found

    def _cutting(self, handler: Handler) -> Handler:
        def handle(gates: Gates, call: Call) -> Any:
            used = uses_weights(gates, call)
            if used is None:
                return handler(gates, call)
            value, weights = used
            flow = known_flow(value)

            def run(entries: Tensor) -> Tensor:
                marked = gates.mark(entries, Flow(rank=flow.rank))
                again = call.map(lambda item: marked if item is value else item)
                result: Tensor = handler(gates, Call(again.func, again.args, again.kwargs))
                return result * 2.0 ** known_flow(result).exponent

            self.gates = gates
            self._arrive(value, flow.exponent)
            leaf = torch.ones_like(run(torch.ones_like(value).detach())).detach().requires_grad_()
            if self.inside:
                names = {name: one for name, one in self.ones.items() if any(_depends(item, one) for item in weights)}
                _check_size(value.numel() * leaf.numel() * sum(one.numel() for one in names.values()), _MOST_EDGES)
                self.cuts[-1].inside = list(_edges(run, value, names))
            self.leaves.append(leaf)
            self.origin.append(len(self.cuts) - 1)
            return gates.finish(call, leaf.clone(), Flow())

        return handle

    def _arrive(self, value: Tensor, exponent: int) -> None:
        """Note how `value` depends on all leaves so far."""
        for source in self.gates.sources if self.gates is not None else ():
            if not any(leaf is source for leaf in self.leaves):
                self.leaves.append(source)
                self.origin.append(None)
        _check_size(max((leaf.numel() for leaf in self.leaves), default=0) * value.numel(), _MOST_ENTRIES)
        if any(_depends(value, one) for one in self.ones.values()):
            raise PathError(
                "the paths of this network cannot be listed one by one: some operation uses weights in a way that "
                f"cannot be taken apart (torch's own attention?); {_LEADING}"
            )
        blocks = _jacobians(value, self.leaves)
        self.cuts.append(_Cut([block * 2.0**exponent for block in blocks]))


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ValueError(
            f"the paths are few, but the layers too large to list them one by one ({size:,} possible connections, at "
            f"most {most:,}); {_LEADING}"
        )


def _depends(value: Tensor, leaf: Tensor) -> bool:
    return value is leaf or any(getattr(node, "variable", None) is leaf for node in graph_nodes(value))


def _jacobians(value: Tensor, variables: Sequence[Tensor], rows: Tensor | None = None) -> list[Tensor]:
    """d value / d variable as matrices, of some rows if they are given; empty where there is no dependence."""
    unit = torch.eye(value.numel(), dtype=value.dtype, device=value.device)
    unit = (unit if rows is None else unit[rows]).view(-1, *value.shape)
    grads = torch.autograd.grad(
        value, list(variables), unit, is_grads_batched=True, allow_unused=True, retain_graph=True
    )
    none = value.new_zeros(0, 0)
    return [none if grad is None else grad.reshape(len(unit), -1) for grad in grads]


def _edges(run: Callable[[Tensor], Tensor], value: Tensor, used: Mapping[str, Tensor]) -> Iterator[_Edge]:
    """Which weights lead from each entry of `value` to each entry of the result of an operation linear in both."""
    for start in range(value.numel()):
        unit = torch.zeros_like(value).detach()
        unit.view(-1)[start] = 1
        result = run(unit)
        stops = result.detach().flatten().nonzero().flatten()
        if not len(stops):
            continue
        for name, matrix in zip(used, _jacobians(result, list(used.values()), stops), strict=True):
            for row, position in matrix.nonzero().tolist():
                yield _Edge(start, int(stops[row]), (name, position), float(matrix[row, position]))


def _live(found: _Dissection, counted: _Dissection) -> list[set[int]]:
    """For each leaf, the entries from which the output can be reached, through scales of zero too."""
    live: list[set[int]] = [set() for _ in found.leaves]

    def spread(cut: _Cut, entries: set[int]) -> None:
        rows = sorted(entries)
        for leaf, block in enumerate(cut.before):
            if block.numel():
                live[leaf] |= set(block[rows].any(0).nonzero().flatten().tolist())

    last = counted.cuts[-1]
    spread(last, set(range(max((block.shape[0] for block in last.before), default=0))))
    for leaf in reversed(range(len(found.leaves))):
        cut = found.origin[leaf]
        if cut is not None:
            spread(counted.cuts[cut], {e.start for e in found.cuts[cut].inside if e.stop in live[leaf]})
    return live


def _arriving(ways: Sequence[Sequence[Sequence[Path]]], cut: _Cut, counted: _Cut) -> list[list[Path]]:
    """The paths that arrive at each entry of a cut. Where n parallel routes lead from one entry to another, there are n
    paths, and each carries an equal share of the coefficient."""
    here: list[list[Path]] = [[] for _ in range(max((block.shape[0] for block in counted.before), default=0))]
    for leaf, (block, numbers) in enumerate(zip(cut.before, counted.before, strict=True)):
        for entry, origin in numbers.nonzero().tolist():
            number = round(float(numbers[entry, origin]))
            share = float(block[entry, origin]) / number if block.numel() else 0.0
            for way in ways[leaf][origin]:
                here[entry] += [Path(way.start, entry, way.weights, way.coefficient * share)] * number
    return here


def _along(way: Path, edge: _Edge) -> Path:
    return Path(way.start, edge.stop, (*way.weights, edge.weight), way.coefficient * edge.coefficient)
