"""Prune a ResNet before training it, and train it in a loop of your own.

The network has the structure and the parameter names of torchvision's ResNets (basic blocks), in small: replace it with
`torchvision.models.resnet18(num_classes=10)` and the digits with your images, and nothing else changes.
"""

from __future__ import annotations

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import foreprune as fp

EPOCHS = 3
DENSITY = 0.1


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, inside, H, W) -> (B, outside, H / stride, W / stride)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Four layers of blocks on (B, 1, 8, 8) images: so small that only the last two halve them."""

    def __init__(self, blocks: tuple[int, ...] = (1, 1, 1, 1), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        widths = (16, 16, 32, 64, 128)
        for index, number in enumerate(blocks, start=1):
            inside, outside = widths[index - 1], widths[index]
            first = BasicBlock(inside, outside, stride=1 if index < 3 else 2)
            rest = [BasicBlock(outside, outside, stride=1) for _ in range(number - 1)]
            setattr(self, f"layer{index}", nn.Sequential(first, *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def train(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> None:
    """An ordinary training loop: nothing in it knows of masks."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    model.train()
    for _ in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of right answers."""
    return float((model.eval()(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Dense, SynFlow and SNIP, from the same initial weights."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 - 0.3
    labels = torch.tensor(digits.target)
    test = torch.arange(len(images)) % 5 == 0
    train_set = TensorDataset(images[~test], labels[~test])

    torch.manual_seed(0)
    initial = ResNet()
    few = tuple(part[:100] for part in train_set.tensors)  # about ten images of each class
    chosen = {
        "dense": None,
        "synflow": fp.prune(initial, "synflow", density=DENSITY, inputs=images[:1]),
        "snip": fp.prune(initial, "snip", density=DENSITY, data=[few]),
    }
    for name, masks in chosen.items():
        model = copy.deepcopy(initial)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        if masks is not None:
            masks.attach(model, optimizer)  # pruned weights are zero from here on and stay exactly zero
        generator = torch.Generator().manual_seed(0)
        train(model, DataLoader(train_set, batch_size=64, shuffle=True, generator=generator), optimizer)
        kept = masks.kept if masks is not None else sum(p.numel() for p in model.parameters() if p.dim() > 1)
        print(f"{name:8} {kept:7,} weights  test accuracy {accuracy(model, images[test], labels[test]):.1%}")

    report = fp.analyze(initial, chosen["synflow"], inputs=images[:1])
    dead = ", ".join(report.dead_layers) or "none"
    print(f"SynFlow: {report.macs:,} of {report.dense_macs:,} multiply-adds, dead layers: {dead}")


if __name__ == "__main__":
    main()
