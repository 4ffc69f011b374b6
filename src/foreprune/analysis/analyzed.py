"""`analyze`: what masks leave of a network, in one record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from foreprune.analysis.effective import effective
from foreprune.analysis.flops import LayerCost, measure
from foreprune.analysis.path_kernel import no_path
from foreprune.analysis.path_sums import PathCount, Quantity, count, norm, objective, trace
from foreprune.analysis.pruned import Pruned, undisturbed
from foreprune.analysis.tangent import Tangent
from foreprune.analysis.tangent_kernel import kernel_spectrum, kernel_trace
from foreprune.analysis.widths import Width, layer_widths, units_by_sparsity
from foreprune.core.masks import Masks, unwrapped
from foreprune.core.task import Inputs, materialize
from foreprune.graph import PathError

if TYPE_CHECKING:
    from rich.console import RenderableType

_T = TypeVar("_T")
_ROWS = 2048  # tangent kernels up to this size are formed whole
_PROBES = 100


@dataclass(frozen=True)
class Analysis:
    """What is left of a network. Sums over paths are None where float64 cannot hold them; their log10 always exists.

    Where the paths of a network have no meaning (recurrent layers, say) all that rests on them is None, and `notes`
    says why.

    Attributes:
        kept: weights kept.
        total: prunable weights.
        density: kept / total.
        effective_density: the same without weights that lie on no kept path (`foreprune.analysis.effective`).
        layer_densities: name -> density. Names are those of blocks: of weights, or of the layers in one that holds
            several, such as queries, keys and values.
        effective_layer_densities: name -> density without weights on no kept path.
        shapes: name -> shape of the weight.
        widths: name -> units, those with a kept incoming weight, and those on a kept path.
        units_by_sparsity: s -> fraction of units whose incoming weights are pruned to a sparsity of at least s; at
            s = 1 neuron collapse.
        dead_layers: layers without a weight on a kept path, or without any kept weight.
        collapsed_layers: those of them that keep no weight at all.
        paths: number of paths from an entry of the input to an entry of the output; None above 2**53.
        log10_paths: its log10, -inf for none.
        path_norm: l1 path norm.
        log10_path_norm: its log10.
        synflow: SynFlow's objective; differs from the path norm where there is max pooling.
        log10_synflow: its log10.
        path_kernel_trace: trace of the path kernel.
        log10_path_kernel_trace: its log10.
        macs: multiply-adds of one forward pass of one sample, times the density of each layer.
        dense_macs: before pruning.
        layer_macs: name -> both. FLOPs are twice the multiply-adds.
        parameters: all, biases and normalization included.
        kept_parameters: without pruned weights.
        dense_bytes: of all parameters.
        bytes: of the kept ones, values only.
        ntk_samples: samples of the data that the tangent kernel was computed on; None without data, like the rest.
        ntk_trace: trace of the tangent kernel of all trainable parameters, in evaluation mode.
        ntk_largest: its largest eigenvalue; None for kernels of more than 2,048 rows (samples times outputs).
        ntk_condition_number: largest over smallest eigenvalue; infinite if it is singular, None as above.
        notes: what could not be computed and why, and what to know about the numbers.
    """

    kept: int
    total: int
    density: float
    effective_density: float | None
    layer_densities: Mapping[str, float]
    effective_layer_densities: Mapping[str, float] | None
    shapes: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, Width]
    units_by_sparsity: Mapping[float, float]
    dead_layers: tuple[str, ...]
    collapsed_layers: tuple[str, ...]
    paths: int | None
    log10_paths: float | None
    path_norm: float | None
    log10_path_norm: float | None
    synflow: float | None
    log10_synflow: float | None
    path_kernel_trace: float | None
    log10_path_kernel_trace: float | None
    macs: int
    dense_macs: int
    layer_macs: Mapping[str, LayerCost]
    parameters: int
    kept_parameters: int
    dense_bytes: int
    bytes: int
    ntk_samples: int | None
    ntk_trace: float | None
    ntk_largest: float | None
    ntk_condition_number: float | None
    notes: tuple[str, ...]

    @property
    def sparsity(self) -> float:
        """Fraction removed."""
        return (self.total - self.kept) / self.total

    @property
    def prunable_share(self) -> float:
        """Prunable weights among all parameters; biases, normalization and embeddings are not pruned by default."""
        return self.total / self.parameters

    @property
    def layer_collapse(self) -> bool:
        """Whether no path leads from the input to the output any more (Tanaka et al. 2020): nothing can be learned."""
        return self.log10_paths == -math.inf or bool(self.collapsed_layers and self.log10_paths is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Infinite numbers become None; keys are strings."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {**plain, "sparsity": self.sparsity, "layer_collapse": self.layer_collapse}

    def __rich__(self) -> RenderableType:
        from foreprune.analysis.table import table

        return table(self)


def analyze(model: nn.Module, masks: Masks | None = None, *, inputs: Any = None, data: Any = None) -> Analysis:
    """Measure what `masks` leave of `model`. The model is not changed.

    Args:
        model: any `torch.nn.Module`, at the weights that path norm, traces and kernels are wanted for.
        masks: what is kept; None: every prunable weight.
        inputs: example inputs: a tensor, a tuple of them (positional) or a mapping (keywords), batch axis first. Only
            shapes and types count.
        data: one batch of inputs, or `(input, target)`, of which the target does not matter, or an iterable of batches.
            With it the tangent kernel on these samples is measured too; its cost grows with samples times outputs, so
            pass few. The first batch stands for `inputs` if there are none.

    Raises:
        TypeError: neither inputs nor data, or of the wrong kind.
        ValueError: masks of another model, or batches with samples of different shapes.
    """
    with undisturbed():
        inner = unwrapped(model) if isinstance(model, nn.Module) else None
        batches = materialize(data, torch.device("cpu"), labeled=False, module=inner) if data is not None else ()
        pruned = Pruned.of(model, masks, batches[0].inputs if inputs is None and batches else inputs)
        notes: list[str] = []
        net, kept = pruned.net, pruned.masks
        reached = _unless(lambda: effective(pruned), notes)
        paths = _unless(lambda: count(pruned), notes) or PathCount(None, math.nan)
        length = _unless(lambda: norm(pruned), notes) or Quantity(None, math.nan)
        flow = _unless(lambda: objective(pruned), notes) or Quantity(None, math.nan)
        spread = _unless(lambda: trace(pruned), notes) or Quantity(None, math.nan)
        if paths.log10 == -math.inf:
            notes.append(no_path(kept))
        cost = measure(pruned)
        tangent = _tangent(model, masks, [batch.inputs for batch in batches], notes)
        dead = (kept if reached is None else reached).collapsed_blocks()
        return Analysis(
            kept=kept.kept,
            total=kept.total,
            density=kept.density,
            effective_density=None if reached is None else reached.density,
            layer_densities=kept.block_densities(),
            effective_layer_densities=None if reached is None else reached.block_densities(),
            shapes={block.name: block.shape for block in kept.blocks},
            widths=layer_widths(net.module, kept, effective=reached),
            units_by_sparsity=units_by_sparsity(net.module, kept),
            dead_layers=dead,
            collapsed_layers=kept.collapsed_blocks(),
            paths=paths.value,
            log10_paths=_known(paths.log10),
            path_norm=length.value,
            log10_path_norm=_known(length.log10),
            synflow=flow.value,
            log10_synflow=_known(flow.log10),
            path_kernel_trace=spread.value,
            log10_path_kernel_trace=_known(spread.log10),
            macs=cost.macs,
            dense_macs=cost.dense_macs,
            layer_macs=_of_blocks(cost.layers, kept),
            parameters=cost.parameters,
            kept_parameters=cost.kept_parameters,
            dense_bytes=cost.dense_bytes,
            bytes=cost.bytes,
            **tangent,
            notes=tuple(dict.fromkeys(notes)),
        )


def _unless(measure: Callable[[], _T], notes: list[str]) -> _T | None:
    try:
        return measure()
    except PathError as error:
        notes.append(f"paths: {error}")
        return None


def _of_blocks(costs: Mapping[str, LayerCost], masks: Masks) -> dict[str, LayerCost]:
    """Costs of tensors, shared out over their blocks where they are split: all rows are used alike often."""
    counts, found = masks.block_counts(), dict(costs)
    for block in masks.blocks:
        if block.spans and block.parameter in costs:
            found.pop(block.parameter, None)
            kept, total = counts[block.name]
            dense = costs[block.parameter].dense_macs * total // math.prod(block.tensor)
            found[block.name] = LayerCost(dense, dense * kept // total)
    return found


def _known(log10: float) -> float | None:
    return None if math.isnan(log10) else log10


def _tangent(model: nn.Module, masks: Masks | None, parts: list[Inputs], notes: list[str]) -> dict[str, Any]:
    """The measures of the tangent kernel on the data."""
    names = ("ntk_samples", "ntk_trace", "ntk_largest", "ntk_condition_number")
    if not parts:
        return dict.fromkeys(names)
    tangent = Tangent.of(model, masks, _joined(parts), parameters="trainable")
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in tangent.net.module.modules()):
        notes.append("tangent kernel: batch normalization uses its running statistics")
    rows = tangent.samples * tangent.outputs
    if rows <= _ROWS:
        spectrum = kernel_spectrum(tangent)
        values = spectrum.eigenvalues
        found = (tangent.samples, float(values.sum()), float(values[0]), spectrum.condition_number)
        return dict(zip(names, found, strict=True))
    notes.append(f"tangent kernel: {rows:,} rows; its trace is an estimate from {_PROBES} random vectors")
    estimate = kernel_trace(tangent, probes=_PROBES)
    return dict(zip(names, (tangent.samples, estimate, None, None), strict=True))


def _joined(parts: list[Inputs]) -> Inputs:
    """All batches as one."""
    columns = list(zip(*(part.tensors() for part in parts), strict=True))
    for column in columns:
        shapes = {tuple(tensor.shape[1:]) for tensor in column}
        if len(shapes) > 1:
            raise ValueError(
                f"the batches of data have samples of different shapes, {sorted(shapes)}; give one of them"
            )
    whole = iter([torch.cat(column) for column in columns])
    return parts[0].map(lambda tensor: next(whole))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
