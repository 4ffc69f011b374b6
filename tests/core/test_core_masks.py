"""`Masks` as a value: immutable, compared by content, combined by name, applied without touching what it is given."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from foreprune.core.masks import Masks
from foreprune.core.targets import check_same_weights, parameters_of, unwrapped


def masks() -> Masks:
    return Masks(
        {"a": torch.tensor([[True, False], [False, False]]), "b": torch.tensor([True, True, False])},
        metadata={"method": "x"},
    )


def test_counts_and_densities() -> None:
    found = masks()
    assert (found.kept, found.total) == (3, 7)
    assert found.density == 3 / 7
    assert found.sparsity == 4 / 7
    assert found.layer_counts() == {"a": (1, 4), "b": (2, 3)}
    assert found.layer_densities() == {"a": 0.25, "b": 2 / 3}
    assert found.collapsed() == ()
    assert found.shapes == {"a": (2, 2), "b": (3,)}
    assert repr(found) == "Masks(2 tensors, kept 3/7, density 0.4286, sparsity 0.5714)"
    assert list(found) == ["a", "b"]
    assert len(found) == 2
    assert "a" in found
    assert "c" not in found


def test_collapsed_layers_and_empty_tensors() -> None:
    found = Masks({"gone": torch.zeros(2, dtype=torch.bool), "none": torch.ones(0, 3, dtype=torch.bool)})
    assert found.collapsed() == ("gone",)
    assert found.layer_densities() == {"gone": 0.0, "none": 1.0}


def test_nobody_can_change_a_mask_that_somebody_else_holds() -> None:
    given = torch.tensor([True, False])
    found = Masks({"a": given})
    given[:] = True
    found["a"][:] = True
    for mask in found.values():
        mask[:] = True
    assert found["a"].tolist() == [True, False]
    assert found.kept == 1
    with pytest.raises(TypeError):
        found["a"] = given  # type: ignore[index]
    with pytest.raises(TypeError):
        del found["a"]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        found.kept = 2  # type: ignore[misc]


def test_equality_is_by_content() -> None:
    assert masks() == masks()
    assert masks() == Masks(dict(reversed(list(masks().items()))), metadata={"method": "y"})
    assert masks() != Masks({"a": masks()["a"]})
    assert masks() != Masks({**masks(), "b": torch.tensor([True, True, True])})
    assert masks() != Masks({**masks(), "b": torch.tensor([[True, True, False]])})
    assert masks() != {"a": masks()["a"], "b": masks()["b"]}
    with pytest.raises(TypeError, match="unhashable"):
        hash(masks())


def test_and_or() -> None:
    left, right = masks(), Masks({"a": torch.eye(2) > 0, "b": torch.tensor([False, True, True])})
    assert (left & right)["a"].tolist() == [[True, False], [False, False]]
    assert (left & right)["b"].tolist() == [False, True, False]
    assert (left | right)["a"].tolist() == [[True, False], [False, True]]
    assert (left | right).kept == 5
    with pytest.raises(ValueError, match="the other masks belong to another model: they lack 'b' and have 'c'"):
        left & Masks({"a": left["a"], "c": left["b"]})
    with pytest.raises(ValueError, match=r"'a' has shape \(4,\) instead of \(2, 2\)"):
        left | Masks({"a": left["a"].flatten(), "b": left["b"]})
    with pytest.raises(TypeError):
        left & {"a": 1}  # type: ignore[operator]


def test_what_is_no_mask() -> None:
    with pytest.raises(TypeError, match=r"mask 'a' must be a boolean tensor, not torch.float32; write \(mask != 0\)"):
        Masks({"a": torch.ones(2)})
    with pytest.raises(TypeError, match="mask 'a' must be a boolean tensor, not list"):
        Masks({"a": [True]})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="masks are made of a mapping name -> boolean tensor, not list"):
        Masks([True])  # type: ignore[arg-type]
    for nothing in ({}, {"a": torch.ones(0, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="masks without a single weight; give at least one non-empty tensor"):
            Masks(nothing)


def test_dense_and_calling() -> None:
    params = {"a": torch.full((2, 2), -3.0), "b": torch.ones(3), "bias": torch.full((2,), 5.0)}
    before = {name: value.clone() for name, value in params.items()}
    applied = masks()(params)
    assert applied["a"].tolist() == [[-3.0, 0.0], [0.0, 0.0]]
    assert applied["bias"] is params["bias"]
    assert all(torch.equal(params[name], before[name]) for name in params)
    assert Masks.dense({"a": params["a"]}).density == 1


def test_copies_pickles_and_devices() -> None:
    for twin in (copy.copy(masks()), copy.deepcopy(masks()), pickle.loads(pickle.dumps(masks())), masks().to("cpu")):
        assert twin == masks()
        assert twin.metadata == {"method": "x"}


def test_masks_of_strided_and_recording_tensors() -> None:
    strided = torch.eye(3, dtype=torch.bool)[:, :2].t()
    assert Masks({"a": strided})["a"].is_contiguous()
    assert Masks({"a": strided})["a"].tolist() == strided.tolist()


def test_apply_zeroes_in_place_even_nan_and_looks_through_wrappers() -> None:
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, float("nan")], [-2.0, 3.0]]))
    bias = linear.bias.detach().clone()
    keep = Masks({"weight": torch.tensor([[True, False], [False, True]])})
    assert keep.apply_(nn.DataParallel(linear)) is not linear
    assert linear.weight.tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert not torch.signbit(linear.weight).any()
    assert torch.equal(linear.bias, bias)
    assert unwrapped(nn.DataParallel(linear)) is linear


def test_masks_for_another_model() -> None:
    keep = Masks({"weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(
        ValueError, match=r"masks belong to another model: 'weight' has shape \(3, 2\) there and \(2, 2\) in the masks"
    ):
        keep.apply_(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"it has no parameter 'weight' \(it has 0.weight, 0.bias, ...\)"):
        keep.apply_(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="masks belong to another model"):
        keep.attach(nn.Linear(2, 3))
    assert parameters_of(nn.Linear(2, 2), {"weight": (2, 2)}).keys() == {"weight"}
    with pytest.raises(ValueError, match="a plan belong to another model: they lack 'a'"):
        check_same_weights({"a": (1,)}, {}, what="a plan")
