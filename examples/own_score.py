"""A score of your own: as a plain function, as a mapping of ready scores, and as a method with a name."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import foreprune as fp


def gradient_size(net, task, masks) -> dict[str, Tensor]:
    """|dL/dw| of the masked network: a function from (net, task, masks) to one tensor for each prunable weight.

    `net.params` are all parameters by name, `masks(net.params)` the same with pruned weights at zero, `net.prunable`
    the names to score. Larger means keep. A score changes nothing; prune counts, selects and breaks ties.
    """
    gradients = task.weight_grads(net, masks(net.params))
    return {name: gradients[name].abs() for name in net.prunable}


@fp.scorer("gradient-power", paper="none: an example", needs={"labels"}, rounds=10)
def gradient_power(net, task, masks, *, power: float = 0.5) -> dict[str, Tensor]:
    """Keep the weights with the largest |w|^power |dL/dw|, in rounds.

    Registered under a name, with settings that are checked and listed. In a package of your own, name this module in
    the entry-point group `foreprune.methods`, and the command line finds it too.
    """
    gradients = task.weight_grads(net, masks(net.params))
    return {name: net.params[name].abs() ** power * gradients[name].abs() for name in net.prunable}


def main() -> None:
    """Prune one network in three ways."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
    batch = (images[:100], torch.tensor(digits.target[:100]))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))

    ready = {name: p.detach().abs() / p.std() for name, p in model.named_parameters() if p.dim() > 1}

    found = {
        "a function": fp.prune(model, gradient_size, density=0.05, data=[batch]),
        "ready scores": fp.prune(model, ready, density=0.05),
        "a method": fp.prune(model, "gradient-power", density=0.05, data=[batch], power=1.0),
        "SNIP": fp.prune(model, "snip", density=0.05, data=[batch]),
    }
    for name, masks in found.items():
        layers = "  ".join(f"{layer} {density:.3f}" for layer, density in masks.layer_densities().items())
        print(f"{name:12} kept {masks.kept:,} of {masks.total:,}   {layers}")
    # one round of |w| |dL/dw| is SNIP
    once = fp.prune(model, "gradient-power", density=0.05, data=[batch], power=1.0, rounds=1)
    print("one round with power 1 is SNIP:", once == found["SNIP"])
    print(fp.get_method("gradient-power"))


if __name__ == "__main__":
    main()
