"""The record: what it holds, how it prints, and that nothing else changes."""

from __future__ import annotations

import copy
import io
import json
import math
import time
from typing import Any

import pytest
import torch
from contract.nets import NETS, example
from contract.test_contract_isolation import differences, disarrange, photograph
from rich.console import Console
from torch import Tensor, nn
from walked_nets import case

import foreprune
from foreprune.analysis.analyzed import Analysis, analyze
from foreprune.analysis.effective import effective_masks
from foreprune.analysis.flops import cost
from foreprune.analysis.linearized import linearize
from foreprune.analysis.path_kernel import path_kernel
from foreprune.analysis.path_sums import path_count, path_kernel_trace, path_norm, synflow_objective
from foreprune.analysis.tangent_kernel import ntk
from foreprune.analysis.widths import layer_widths, units_by_sparsity
from foreprune.core.masks import Masks
from foreprune.zoo.models import create


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def printed(analysis: Analysis) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(analysis)
    return console.export_text()


def test_the_record_holds_what_its_parts_measure() -> None:
    given = example("conv")
    masks = foreprune.prune(given.model, "random", density=0.4)
    found = analyze(given.model, masks, inputs=given.x)
    effective = effective_masks(given.model, masks, inputs=given.x)
    spent = cost(given.model, masks, inputs=given.x)
    assert (found.kept, found.total) == (masks.kept, masks.total)
    assert (found.density, found.sparsity) == (masks.density, masks.sparsity)
    assert found.effective_density == effective.density < masks.density
    assert found.layer_densities == masks.layer_densities()
    assert found.effective_layer_densities == effective.layer_densities()
    assert found.widths == layer_widths(given.model, masks, effective=effective)
    assert found.units_by_sparsity == units_by_sparsity(given.model, masks)
    for value, log10, measure in (
        (found.paths, found.log10_paths, path_count),
        (found.path_norm, found.log10_path_norm, path_norm),
        (found.synflow, found.log10_synflow, synflow_objective),
        (found.path_kernel_trace, found.log10_path_kernel_trace, path_kernel_trace),
    ):
        assert (value, log10) == measure(given.model, masks, inputs=given.x)
    assert isinstance(found.paths, int)
    assert (found.macs, found.dense_macs) == (spent.macs, spent.dense_macs)
    assert found.layer_macs == spent.layers
    assert (found.parameters, found.kept_parameters) == (spent.parameters, spent.kept_parameters)
    assert (found.bytes, found.dense_bytes) == (spent.bytes, spent.dense_bytes)
    assert found.dead_layers == found.collapsed_layers == ()
    assert not found.layer_collapse
    assert (found.ntk_trace, found.ntk_samples, found.notes) == (None, None, ())


def test_without_masks_everything_is_kept() -> None:
    given = case("mlp")
    found = analyze(given.model, inputs=given.x)
    assert (found.density, found.effective_density, found.paths) == (1.0, 1.0, len(given.walks))
    assert found.units_by_sparsity[0.1] == 0


def test_dead_and_collapsed_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    masks = Masks(
        {
            "0.weight": torch.ones(2, 2).bool(),
            "2.weight": torch.zeros(2, 2).bool(),
            "4.weight": torch.tensor([[True, False]]),
        }
    )
    found = analyze(model, masks, inputs=torch.zeros(1, 2))
    assert found.collapsed_layers == ("2.weight",)
    assert found.dead_layers == ("0.weight", "2.weight", "4.weight")
    assert found.layer_collapse
    assert (found.paths, found.log10_paths) == (0, -math.inf)
    assert (found.path_kernel_trace, found.effective_density) == (0.0, 0.0)
    assert "layers without a single kept weight: 2.weight" in found.notes[0]
    plain = found.to_dict()
    assert plain["log10_paths"] is None
    assert plain["layer_collapse"] is True
    json.dumps(plain, allow_nan=False)


def test_data_add_the_tangent_kernel() -> None:
    given = example("residual")
    masks = foreprune.prune(given.model, "random", density=0.5)
    batches = [(given.x[:4], given.y[:4]), (given.x[4:7], given.y[4:7])]
    found = analyze(given.model, masks, data=batches)
    spectrum = ntk(copy.deepcopy(given.model).eval(), masks, inputs=given.x[:7], reduce="spectrum")
    assert found.ntk_samples == 7
    assert found.ntk_trace == pytest.approx(float(spectrum.eigenvalues.sum()))
    assert found.ntk_largest == pytest.approx(float(spectrum.eigenvalues[0]))
    assert found.ntk_condition_number == pytest.approx(spectrum.condition_number, rel=1e-6)
    assert found.notes == ("tangent kernel: batch normalization uses its running statistics",)
    assert found.paths == analyze(given.model, masks, inputs=given.x).paths
    assert "7 samples" in printed(found)


def test_large_tangent_kernels_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    given = example("mlp")
    monkeypatch.setattr("foreprune.analysis.analyzed._ROWS", 10)
    found = analyze(given.model, inputs=given.x, data=(given.x, given.y))
    kernel = ntk(given.model, inputs=given.x)
    deviation = float((2 * (kernel - kernel.diag().diag()).square().sum()).sqrt())  # of the estimate from one vector
    assert found.ntk_trace != float(kernel.trace())
    assert abs(found.ntk_trace - float(kernel.trace())) < 4 * deviation / 10
    assert (found.ntk_largest, found.ntk_condition_number) == (None, None)
    assert found.notes == ("tangent kernel: 36 rows; its trace is an estimate from 100 random vectors",)


def test_networks_whose_paths_have_no_meaning_are_analyzed_all_the_same() -> None:
    model = Recurrent()
    masks = Masks({"head.weight": torch.tensor([[True, False, True], [False, False, False]])})
    found = analyze(model, masks, inputs=torch.zeros(1, 4, 2), data=(torch.randn(2, 4, 2), torch.zeros(2)))
    assert found.density == 1 / 3
    assert found.widths["head.weight"].fed == 1
    for field in ("effective_density", "paths", "log10_paths", "path_norm", "synflow", "path_kernel_trace"):
        assert getattr(found, field) is None
    assert found.log10_path_kernel_trace is None
    assert found.widths["head.weight"].connected is None
    assert len(found.notes) == 1
    assert found.notes[0].startswith("paths: torch.lstm in module 'cell' (LSTM) has no meaning for paths")
    assert not found.layer_collapse
    assert found.ntk_trace is not None
    text = printed(found)
    assert "note: paths: torch.lstm" in text
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_table() -> None:
    given = case("strided")
    masks = given.masks(0.6, 2)
    text = printed(analyze(given.model, masks, inputs=given.x))
    assert f"{masks.kept} of {masks.total} weights" in text
    assert f"{len(given.kept(masks)):,}" in text
    for name, density in masks.layer_densities().items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert f"{density:.4f}" in line
    # square brackets in names are no markup
    odd = nn.ModuleDict({"[red]": nn.Linear(2, 2)})

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = odd

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["[red]"](x)

    assert "parts.[red].weight" in printed(analyze(Odd(), inputs=torch.zeros(1, 2)))


def test_data_need_no_targets() -> None:
    given = example("mlp")
    wanted = analyze(given.model, data=(given.x, given.y))
    assert wanted.ntk_samples == len(given.x)
    assert analyze(given.model, data=given.x) == wanted
    assert analyze(given.model, data=[given.x[:1], given.x[1:]]) == wanted
    assert analyze(given.model, data=[(given.x, given.y)]) == wanted


def test_the_dictionary_is_plain() -> None:
    given = example("encoder")
    plain = analyze(given.model, inputs=given.x, data=(given.x, given.y)).to_dict()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    assert plain["widths"]["embed.weight"] == {"units": 8, "fed": 8, "connected": 8}
    assert plain["shapes"]["embed.weight"] == [8, 4]
    assert plain["units_by_sparsity"]["1.0"] == 0
    assert plain["sparsity"] == 0


def everything(model: nn.Module, masks: Masks, x: Tensor, y: Tensor) -> None:
    analyze(model, masks, inputs=x, data=(x, y))
    path_count(model, masks, inputs=x)
    effective_masks(model, masks, inputs=x)
    cost(model, masks, inputs=x)
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        ntk(model, masks, inputs=x[:2], reduce="spectrum", leading=2)
        linearize(model, masks, inputs=x[:2], targets=y[:2]).weights(3, learning_rate=0.1)
    try:
        path_kernel(model, masks, inputs=x, leading=1)
        path_kernel(model, masks, inputs=x)
    except ValueError:
        pass


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
@pytest.mark.parametrize("name", NETS)
def test_the_model_and_the_process_stay_bit_for_bit(name: str) -> None:
    given = example(name)
    disarrange(given.model)
    masks = foreprune.prune(given.model, "random", density=0.3)
    inputs = given.x.clone()
    torch.backends.mha.set_fastpath_enabled(True)
    before = photograph(given.model)
    everything(given.model, masks, given.x, given.y)
    assert differences(before, photograph(given.model)) == []
    assert torch.equal(given.x, inputs)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(context: Any) -> None:
    given = example("residual")
    masks = foreprune.prune(given.model, "random", density=0.4)
    wanted = analyze(given.model, masks, inputs=given.x, data=(given.x, given.y)).to_dict()
    kernel = path_kernel(given.model, masks, inputs=given.x, leading=1)
    moved = linearize(given.model.eval(), masks, inputs=given.x[:2], targets=given.y[:2])
    with context():
        assert analyze(given.model, masks, inputs=given.x, data=(given.x, given.y)).to_dict() == wanted
        again = path_kernel(given.model, masks, inputs=given.x, leading=1)
        assert again.eigenvalues.tolist() == kernel.eigenvalues.tolist()
        weights = moved.weights(2, learning_rate=0.1)
    assert set(weights) == {name for name, _ in given.model.named_parameters()}


def test_bad_arguments() -> None:
    given = example("mlp")
    with pytest.raises(TypeError, match="give inputs=, of which only the shape counts"):
        analyze(given.model)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not str"):
        analyze("model", inputs=given.x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="belong to another model"):
        analyze(given.model, Masks({"0.weight": torch.ones(2, 2).bool()}), inputs=given.x)
    mixed = [(torch.zeros(2, 6).double(), torch.zeros(2)), (torch.zeros(2, 5).double(), torch.zeros(2))]
    with pytest.raises(ValueError, match=r"samples of different shapes, \[\(5,\), \(6,\)\]"):
        analyze(given.model, inputs=given.x, data=mixed)


@pytest.mark.slow
def test_resnet_50_takes_seconds() -> None:
    model, x = create("resnet-50", input_shape=(3, 224, 224), classes=1000), torch.zeros(2, 3, 224, 224)
    masks = foreprune.prune(model, "erk", density=0.1)
    start = time.perf_counter()
    found = analyze(model, masks, inputs=x)
    assert time.perf_counter() - start < 60
    assert found.paths is None
    for value in (found.log10_paths, found.log10_path_norm, found.log10_synflow, found.log10_path_kernel_trace):
        assert value is not None
        assert math.isfinite(value)
    assert found.dense_macs == 4_089_184_256


@pytest.mark.filterwarnings("ignore::foreprune.core.unscored.UnscoredBlocks")
def test_blocks_of_a_tensor_have_lines_of_their_own() -> None:
    given = example("attention")
    masks = foreprune.prune(given.model, "synflow", density=0.4, inputs=given.x, rounds=3)
    found = analyze(given.model, masks, inputs=given.x)
    blocks = [block.name for block in masks.blocks]
    assert blocks[1:4] == ["qkv.weight[q]", "qkv.weight[k]", "qkv.weight[v]"]
    for values in (found.layer_densities, found.effective_layer_densities, found.shapes, found.widths):
        assert values is not None
        assert list(values) == blocks
    assert found.layer_densities == masks.block_densities()
    fed = masks["qkv.weight"].any(1)
    assert [found.widths[name].units for name in blocks[1:4]] == [8, 8, 8]
    assert [found.widths[name].fed for name in blocks[1:4]] == [int(fed[at : at + 8].sum()) for at in (0, 8, 16)]
    whole = analyze(given.model, foreprune.Masks(dict(masks)), inputs=given.x)
    parts = [found.layer_macs[name] for name in blocks[1:4]]
    assert sum(part.dense_macs for part in parts) == whole.layer_macs["qkv.weight"].dense_macs
    assert "qkv.weight" not in found.layer_macs
    gone = foreprune.prune(given.model, "random", density=0.4)
    tensors = dict(gone)
    tensors["qkv.weight"][:8] = False
    assert analyze(given.model, gone.replaced(tensors), inputs=given.x).collapsed_layers == ("qkv.weight[q]",)
