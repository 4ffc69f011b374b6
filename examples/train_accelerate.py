"""Prune a network before training it, and train it in a loop of your own under accelerate.

python examples/train_accelerate.py
accelerate launch --num_processes 2 examples/train_accelerate.py
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import foreprune as fp
from foreprune.integrations import mask_metrics
from foreprune.integrations.accelerate import attach


def main() -> None:
    """Prune with SynFlow at 5 %, train, save and load the state."""
    parser = argparse.ArgumentParser(description="Train a pruned network under accelerate.")
    parser.add_argument("--out", default="runs/accelerate", help="folder of the state")
    options = parser.parse_args()

    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    masks = fp.prune(model, "synflow", density=0.05, inputs=images[:1])

    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    attach(masks, accelerator, model, optimizer)  # the line that is new
    for _ in range(10):
        for inputs, target in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(inputs), target)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    accelerator.save_state(options.out)  # with masks.safetensors
    accelerator.wait_for_everyone()
    accelerator.load_state(options.out)  # an error if they were others
    accelerator.print(f"{accelerator.num_processes} process(es), loss {loss.item():.3f}")
    accelerator.print(f"revived: {mask_metrics(model, masks)['masks/revived_weights']:.0f}")


if __name__ == "__main__":
    main()
