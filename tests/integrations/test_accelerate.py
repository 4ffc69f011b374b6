"""Masks in a loop of one's own under accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract.extras import imported
from integrations.shared import Net, Points, masks_for, network, revived, watched
from torch.utils.data import DataLoader

from foreprune.core.attach import attach as attach_plainly
from foreprune.integrations import mask_metrics

try:
    accelerate = imported("accelerate")
    from foreprune.integrations.accelerate import attach
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of accelerate itself


def prepared(seed: int = 0) -> tuple[Any, Any, Any, Any, Net]:
    plain = network(seed)
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    return accelerator, *accelerator.prepare(plain, optimizer, DataLoader(Points(), batch_size=16)), plain


def train(accelerator: Any, model: Any, optimizer: Any, loader: Any, epochs: int = 2) -> None:
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()


def test_pruned_weights_stay_zero(tmp_path: Path) -> None:
    accelerator, model, optimizer, loader, plain = prepared()
    masks = masks_for(plain)
    handle = attach(masks, accelerator, model, optimizer)
    with watched(plain, masks) as seen:
        train(accelerator, model, optimizer, loader)
    assert (seen.steps, seen.revived) == (8, 0)
    assert mask_metrics(model, masks)["masks/revived_weights"] == 0
    handle.remove()
    train(accelerator, model, optimizer, loader, epochs=1)
    assert mask_metrics(model, masks)["masks/revived_weights"] > 0
    accelerator.save_state(str(tmp_path))
    assert not (tmp_path / "masks.safetensors").exists()


def test_the_optimizer_that_accelerate_wraps_is_found() -> None:
    """It is an Optimizer by type, without what an Optimizer has."""
    accelerator, model, optimizer, loader, plain = prepared()
    masks = masks_for(plain)
    handle = attach_plainly(masks, model, optimizer)
    train(accelerator, model, optimizer, loader)
    assert revived(plain, masks) == 0
    handle.remove()
    assert not any(parameter._post_accumulate_grad_hooks for parameter in plain.parameters())


def test_masks_travel_with_the_state(tmp_path: Path) -> None:
    accelerator, model, optimizer, loader, plain = prepared()
    masks = masks_for(plain)
    attach(masks, accelerator, model, optimizer)
    train(accelerator, model, optimizer, loader)
    accelerator.save_state(str(tmp_path / "state"))
    train(accelerator, model, optimizer, loader)

    again, model, optimizer, loader, other = prepared(seed=1)
    saved = type(masks).load(tmp_path / "state" / "masks.safetensors")
    assert saved == masks
    attach(saved, again, model, optimizer)
    again.load_state(str(tmp_path / "state"))
    assert revived(other, masks) == 0
    with watched(other, masks) as seen:
        train(again, model, optimizer, loader)
    assert (seen.steps, seen.revived) == (8, 0)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in other.state_dict().items())


def test_other_masks_and_missing_masks_are_errors(tmp_path: Path) -> None:
    accelerator, model, optimizer, _, plain = prepared()
    accelerator.save_state(str(tmp_path / "dense"))
    attach(masks_for(plain), accelerator, model, optimizer, name="network")
    accelerator.save_state(str(tmp_path / "masked"))

    accelerator, model, optimizer, _, plain = prepared(seed=1)
    attach(masks_for(plain, 0.5), accelerator, model, optimizer, name="network")
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"dense has no network.safetensors, so it holds no masks, so its weights were"
    ):
        accelerator.load_state(str(tmp_path / "dense"))
    with pytest.raises(ValueError, match=r"masked was trained with other masks \(.* kept\) than those given"):
        accelerator.load_state(str(tmp_path / "masked"))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in before.items())
    with pytest.raises(TypeError, match=r"accelerator must be an accelerate.Accelerator, not Net; without one write"):
        attach(masks_for(plain), plain, accelerator)
    with pytest.raises(TypeError, match=r"masks must be foreprune.Masks, not dict"):
        attach(dict(masks_for(plain)), accelerator, plain)


def test_numbers_go_to_trackers(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []

    class Tracker(accelerate.tracking.GeneralTracker):  # type: ignore[misc, name-defined]
        name, requires_logging_directory, tracker = "rows", False, None

        def store_init_configuration(self, values: Any) -> None: ...

        def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
            rows.append(values)

    plain = network()
    accelerator = accelerate.Accelerator(cpu=True, log_with=Tracker())
    accelerator.init_trackers("test")
    masks = masks_for(plain)
    accelerator.log(mask_metrics(masks.apply_(plain), masks), step=1)
    assert rows[0]["masks/density"] == pytest.approx(masks.density)
