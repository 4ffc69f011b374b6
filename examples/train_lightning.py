"""Prune a network before training it, and train it with Lightning, averaging its weights.

python examples/train_lightning.py
python examples/train_lightning.py --devices 2
"""

from __future__ import annotations

import argparse

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import foreprune as fp
from foreprune.integrations import mask_metrics
from foreprune.integrations.lightning import MaskCallback


class Digits(lightning.LightningModule):
    """A small convolutional network on (B, 1, 8, 8) images."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(512, 10)),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Accuracy."""
        self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=0.01)


def main() -> None:
    """Prune with SNIP at 10 %, and train."""
    parser = argparse.ArgumentParser(description="Train a pruned network with Lightning.")
    parser.add_argument("--devices", type=int, default=1, help="processes")
    parser.add_argument("--out", default="runs/lightning", help="folder of logs and checkpoints")
    options = parser.parse_args()

    lightning.seed_everything(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0
    train_set, test_set = (TensorDataset(images[part], labels[part]) for part in (~test, test))

    module = Digits()
    few = tuple(part[:100] for part in train_set.tensors)
    masks = fp.prune(module.model, "snip", density=0.1, data=[few]).renamed(add="model.")
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        logger=CSVLogger(options.out),
        callbacks=[MaskCallback(masks), EMAWeightAveraging(decay=0.9)],
        gradient_clip_val=1.0,
        log_every_n_steps=5,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train_set, batch_size=64, shuffle=True), DataLoader(test_set, batch_size=360))
    if trainer.is_global_zero:
        numbers = mask_metrics(module, masks, prefix="")
        print(
            f"accuracy {float(trainer.callback_metrics['accuracy']):.1%} with {masks.kept:,} of {masks.total:,} weights"
        )
        print(f"revived: {numbers['revived_weights']:.0f}, dead units: {numbers['dead_units']:.0f}")


if __name__ == "__main__":
    main()
