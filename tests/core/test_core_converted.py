"""Scripted, traced, exported and quantized models: refused in one sentence, or right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune

X, Y = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
METHODS = [method.name for method in foreprune.list_methods()]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def eager() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(10, 3)).eval()


def dynamic() -> Any:
    return torch.ao.quantization.quantize_dynamic(eager(), {nn.Linear})


def prepared() -> Any:
    model = eager().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    return torch.ao.quantization.prepare_qat(model)


CONVERTED: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.script(eager()), "a scripted or traced module"),
    "traced": (lambda: torch.jit.trace(eager(), X), "a scripted or traced module"),
    "partly": (lambda: nn.Sequential(torch.jit.script(eager()[:5]), *eager()[5:]), "a scripted .* module in '0'"),
    "exported": (lambda: torch.export.export(eager(), (X,)), r"a program of torch\.export"),
    "exported-module": (lambda: torch.export.export(eager(), (X,)).module(), r"a program of torch\.export"),
    "quantized": (dynamic, "a quantized module or prepared for it in '4'"),
    "prepared": (prepared, "a quantized module or prepared for it in '0'"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_converted_models_are_refused(name: str) -> None:
    make, what = CONVERTED[name]
    model = make()
    message = rf"the model is {what}, which .*; prune \(score, analyze\) the eager module that it was made from"
    for method in METHODS:
        with pytest.raises(TypeError, match=message):
            foreprune.prune(model, method, density=0.3, inputs=X, data=(X, Y))
    with pytest.raises(TypeError, match=message):
        foreprune.score(model, "snip", data=(X, Y))
    with pytest.raises(TypeError, match=message):
        foreprune.analyze(model, inputs=X)


@pytest.mark.parametrize("name", CONVERTED)
def test_masks_attach_to_what_keeps_its_parameters_in_python(name: str) -> None:
    model, masks = CONVERTED[name][0](), foreprune.prune(eager(), "magnitude", density=0.3)
    message = "it is a .*: attach to the eager module that it was made from, and convert that"
    if name == "exported":
        with pytest.raises(TypeError, match=rf"module must be a torch.nn.Module, not ExportedProgram; {message}"):
            masks.attach(model)
        return
    if name in ("scripted", "traced"):
        with pytest.raises(TypeError, match=rf"masks cannot follow the parameters of such a module; {message}"):
            masks.attach(model)
        return
    if name in ("partly", "quantized"):
        with pytest.raises(ValueError, match=rf"masks belong to another model: it has no parameter .*; {message}"):
            masks.attach(model)
        return
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    masks.attach(model, optimizer)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    after: dict[str, Tensor] = dict(model.named_parameters())
    for key, mask in masks.items():
        assert not after[key].detach()[~mask].any()
        assert not torch.equal(after[key], before[key])


@pytest.mark.parametrize("method", METHODS)
def test_a_symbolic_trace_is_a_module_like_any_other(method: str) -> None:
    record = foreprune.get_method(method)
    arguments: dict[str, Any] = {"density": 0.3, "inputs": X, "data": (X, Y)}
    arguments |= {"rounds": 2} if "rounds" in record.settings else {}
    traced = torch.fx.symbolic_trace(eager())
    assert foreprune.prune(traced, method, **arguments) == foreprune.prune(eager(), method, **arguments)


def test_analysis_of_a_symbolic_trace() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert foreprune.analyze(torch.fx.symbolic_trace(eager()), data=X) == foreprune.analyze(eager(), data=X)


def test_a_model_that_only_can_be_quantized_is_eager() -> None:
    stubs = torch.ao.quantization
    model = nn.Sequential(stubs.QuantStub(), *eager(), stubs.DeQuantStub()).eval()
    model.add_module("sum", torch.ao.nn.quantized.FloatFunctional())
    model.forward = lambda x: model.sum.add(nn.Sequential.forward(model[:-1], x), x.sum() * 0)  # type: ignore[method-assign]
    assert foreprune.prune(model, "snip", density=0.3, data=(X, Y)).total == 1542
