"""Derivatives by name: zeros, memory of their own, and sums over batches in place."""

from __future__ import annotations

import torch
from torch import Tensor

from foreprune.core.derivatives import add_gradients, gradients


def test_gradients_are_zero_where_nothing_depends_and_own_their_memory() -> None:
    a, b, c = (torch.ones(2, 2, requires_grad=True) for _ in range(3))
    params = {"a": a, "b": b, "c": c}
    found = gradients((a + b).sum() * 2, params, params)
    assert found["c"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    found["a"].mul_(torch.arange(4.0).view(2, 2))
    assert found["b"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert found["a"].tolist() == [[0.0, 2.0], [4.0, 6.0]]
    constant = gradients(torch.ones(()), params, ["a"])
    assert not constant["a"].any()
    again = gradients((a * a).sum(), params, ["a"], create_graph=True)
    assert again["a"].requires_grad


def test_gradients_are_added_one_by_one() -> None:
    torch.manual_seed(0)
    params = {name: torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for name in "abc"}
    inputs = [torch.randn(2, 3, dtype=torch.float64) for _ in range(3)]

    def loss(x: Tensor) -> Tensor:  # c has no part in it, and a has two
        return (torch.tanh(x @ params["a"]) @ params["b"] @ params["a"]).square().sum()

    expected = {name: torch.zeros(3, 3, dtype=torch.float64) for name in params}
    for x in inputs:
        for name, grad in gradients(loss(x), params, params).items():
            expected[name] += grad
    found = gradients(loss(inputs[0]), params, params)
    kept = dict(found)
    for x in inputs[1:]:
        assert add_gradients(loss(x), params, found) is found
    assert add_gradients(torch.ones(()), params, found) is found
    for name, grad in expected.items():
        assert found[name] is kept[name]
        assert torch.equal(found[name], grad)
    assert all(not parameter._backward_hooks for parameter in params.values())
    assert torch.equal(gradients(loss(inputs[0]), params, "a")["a"], gradients(loss(inputs[0]), params, params)["a"])
