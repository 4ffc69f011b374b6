"""Masks under the Trainer of Lightning."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.extras import imported
from integrations.shared import Points, masks_for, network, revived, watched
from torch import Tensor, nn
from torch.utils.data import DataLoader

from foreprune import Masks

try:
    lightning = imported("lightning")
    from foreprune.integrations.lightning import MaskCallback
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning itself


class Lit(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """The shared network in a module of Lightning."""

    def __init__(self, seed: int = 0, optimizers: int = 1) -> None:
        super().__init__()
        self.model = network(seed)
        self.number = optimizers
        self.automatic_optimization = optimizers == 1

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss: Tensor = self.model(**batch)["loss"]
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.log("val_loss", self.model(**batch)["loss"])

    def configure_optimizers(self) -> Any:
        parts: Sequence[nn.Module] = [self.model] if self.number == 1 else [self.model.body, self.model.head]
        optimizers = [torch.optim.AdamW(part.parameters(), lr=0.01, weight_decay=0.1) for part in parts]
        return optimizers[0] if self.number == 1 else optimizers


def trainer_of(folder: Path, *callbacks: Any, **settings: Any) -> Any:
    defaults = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 4,
        "default_root_dir": str(folder),
    }
    return lightning.Trainer(callbacks=[*callbacks], **{**defaults, **settings})


def loader() -> DataLoader[dict[str, Tensor]]:
    return DataLoader(Points(), batch_size=16, shuffle=False)


def fit(folder: Path, lit: Lit, *callbacks: Any, path: Path | None = None, **settings: Any) -> Any:
    trainer = trainer_of(folder, *callbacks, **settings)
    trainer.fit(lit, loader(), loader(), ckpt_path=path)
    return trainer


def lit_masks(lit: Lit, density: float = 0.3) -> Masks:
    return masks_for(lit.model, density).renamed(add="model.")


def hooks_of(lit: Lit) -> int:
    return sum(len(parameter._post_accumulate_grad_hooks or ()) for parameter in lit.parameters())


@pytest.mark.parametrize("optimizers", [1, 2])
def test_pruned_weights_stay_zero_and_the_others_train(tmp_path: Path, optimizers: int) -> None:
    lit = Lit(optimizers=optimizers)
    masks = lit_masks(lit)
    before = {name: value.clone() for name, value in lit.state_dict().items()}
    callback = MaskCallback(masks)
    assert isinstance(callback, lightning.Callback)
    trainer = trainer_of(tmp_path, callback)
    for epochs in (3, 6):
        with watched(lit, masks) as seen:
            trainer.fit_loop.max_epochs = epochs
            trainer.fit(lit, loader(), loader())  # a second time
        assert (seen.steps, seen.revived, revived(lit, masks)) == (12 * optimizers, 0, 0)
        assert hooks_of(lit) == 0
    assert all(bool((lit.get_parameter(n) != before[n])[mask].all()) for n, mask in masks.items())


def test_masks_travel_in_checkpoints(tmp_path: Path) -> None:
    lit = Lit()
    masks = lit_masks(lit)
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(tmp_path, lit, MaskCallback(masks), saver, enable_checkpointing=True)
    path = tmp_path / "epoch=1.ckpt"
    content = torch.load(path, weights_only=True)  # nothing that needs trust
    assert content["callbacks"]["MaskCallback"]["masks"].dtype == torch.uint8
    for given in (masks, None):
        other = Lit(seed=1)
        callback = MaskCallback(given)
        with watched(other, masks) as seen:
            fit(tmp_path, other, callback, path=path)
        assert (seen.steps, seen.revived) == (4, 0)
        assert callback.masks == masks
        assert all(torch.equal(value, lit.state_dict()[name]) for name, value in other.state_dict().items())
    trainer = trainer_of(tmp_path, MaskCallback())
    trainer.validate(Lit(), loader(), ckpt_path=path, verbose=False)


def test_other_masks_and_missing_masks_are_errors(tmp_path: Path) -> None:
    lit = Lit()
    masks, others = lit_masks(lit), lit_masks(lit, 0.5)
    trainer = fit(tmp_path, lit, MaskCallback(masks))
    trainer.save_checkpoint(tmp_path / "masked.ckpt")
    message = rf"^the checkpoint was trained with other masks \({masks.kept} of .* kept\) than .* \({others.kept} of"
    fresh = Lit()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, fresh, MaskCallback(others), path=tmp_path / "masked.ckpt", max_epochs=5)
    assert hooks_of(fresh) == 0
    trainer = fit(tmp_path, Lit())
    trainer.save_checkpoint(tmp_path / "dense.ckpt")
    for given in (masks, None):
        with pytest.raises(ValueError, match=r"^the checkpoint .*dense.ckpt holds no masks, so its weights were not"):
            fit(tmp_path, Lit(), MaskCallback(given), path=tmp_path / "dense.ckpt", max_epochs=5)
    with pytest.raises(ValueError, match=r"^MaskCallback\(\) without masks .* begins anew; give MaskCallback\(masks\)"):
        fit(tmp_path, Lit(), MaskCallback())
    with pytest.raises(TypeError, match=r"^MaskCallback takes foreprune.Masks, or None"):
        MaskCallback(dict(masks))
    with pytest.raises(ValueError, match=r"no parameter 'body.0.weight'.*; write masks.renamed\(add='model.'\)$"):
        fit(tmp_path, Lit(), MaskCallback(masks.renamed(strip="model.")))


def test_masks_that_nothing_trains_are_an_error(tmp_path: Path) -> None:
    class Idle(Lit):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.body[3].parameters(), lr=0.1)

    lit = Idle()
    with pytest.raises(
        ValueError, match=r"^no optimizer of the trainer updates any of the 3 masked parameters \(model"
    ):
        fit(tmp_path, lit, MaskCallback(lit_masks(lit)))
    assert hooks_of(lit) == 0


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("start", [None, 8])
def test_averages_of_the_weights_are_masked(tmp_path: Path, first: bool, start: int | None) -> None:
    lit = Lit()
    masks = lit_masks(lit)
    average = lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.9, update_starting_at_step=start)
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    callbacks = [MaskCallback(masks), average] if first else [average, MaskCallback(masks)]
    fit(tmp_path, lit, *callbacks, saver, enable_checkpointing=True)
    assert revived(lit, masks) == 0
    for epoch in range(3):  # what is saved is the average
        weights = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"]
        assert all(not weights[name][~mask].any() for name, mask in masks.items())


def test_numbers_go_to_the_loggers_of_the_trainer(tmp_path: Path) -> None:
    lit = Lit()
    masks = lit_masks(lit)
    fit(tmp_path, lit, MaskCallback(masks), logger=lightning.pytorch.loggers.CSVLogger(tmp_path, version=0))
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["masks/density"]]
    assert [row["step"] for row in rows] == ["3", "7", "11"]
    assert all(float(row["masks/density"]) == pytest.approx(masks.density) for row in rows)
    assert all(float(row["masks/revived_weights"]) == 0 for row in rows)


def test_an_interrupted_fit_leaves_no_hook(tmp_path: Path) -> None:
    class Broken(Lit):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("stop")

    lit = Broken()
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, lit, MaskCallback(lit_masks(lit)))
    assert hooks_of(lit) == 0
