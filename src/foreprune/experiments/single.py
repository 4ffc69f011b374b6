"""One network at a time: what `foreprune prune` and `foreprune train` do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from foreprune.analysis.summary import Analysis, analyze
from foreprune.api import prune
from foreprune.core.atomic import atomic_write
from foreprune.core.masks import Masks
from foreprune.core.method import Scope
from foreprune.methods import method as find_method
from foreprune.records.spec import Epoch, Scalar
from foreprune.records.store import make_folder
from foreprune.training.fit import fit
from foreprune.training.history import History
from foreprune.training.recipes import Recipe
from foreprune.zoo.datasets import load_cached
from foreprune.zoo.models import create


def prune_once(
    *,
    model: str,
    method: str,
    density: float,
    hyper: Mapping[str, Scalar],
    data: str | None,
    data_dir: Path | None,
    input_shape: tuple[int, int, int],
    classes: int,
    weights: Path | None,
    init: str,
    samples_per_class: int,
    exclude: Sequence[str],
    scope: Scope,
    seed: int,
) -> Masks:
    """Build a network, prune it, return the masks; arguments as on the command line.

    Raises:
        ValueError: a data-driven method without data, unknown names, weights of another network.
    """
    found = find_method(method)
    if data is None and ("labels" in found.needs or "mean_image" in found.hyper):
        raise ValueError(f"method {method!r} scores on data: add --data (and --data-dir), e.g. --data digits")
    batches = loss = None
    arguments: dict[str, Any] = dict(hyper)
    if data is not None:
        loaded = load_cached(data, None if data_dir is None else str(data_dir))
        loss = loaded.loss_function
        input_shape, classes = loaded.shape, loaded.classes
        batches = loaded.train.scoring_batches(per_class=samples_per_class, seed=seed, device="cpu")
        if "mean_image" in found.hyper:
            arguments["mean_image"] = loaded.train.mean_image(batches)
    network = _network(model, input_shape, classes, weights=weights, init=init, seed=seed)
    return prune(
        network,
        method,
        density=density,
        inputs=torch.zeros(1, *input_shape),
        data=batches if "labels" in found.needs else None,
        loss=loss,
        scope=scope,
        seed=seed,
        prunable=list(exclude) or None,
        **arguments,
    )


def analyze_once(
    *,
    model: str,
    masks: Path | None,
    data: str | None,
    data_dir: Path | None,
    samples_per_class: int,
    input_shape: tuple[int, int, int],
    classes: int,
    weights: Path | None,
    init: str,
    seed: int,
    out: Path | None,
) -> Analysis:
    """Build a network and analyze what masks leave of it; with `data` the tangent kernel too; with `out`, write all
    numbers there as JSON.

    Raises:
        ValueError: unknown names, masks or weights of another network.
    """
    batches = None
    if data is not None:
        loaded = load_cached(data, None if data_dir is None else str(data_dir))
        input_shape, classes = loaded.shape, loaded.classes
        batches = loaded.train.scoring_batches(per_class=samples_per_class, seed=seed, device="cpu")
    network = _network(model, input_shape, classes, weights=weights, init=init, seed=seed).eval()
    mask = None if masks is None else Masks.load(masks)
    found = analyze(network, mask, inputs=torch.zeros(1, *input_shape), data=batches)
    if out is not None:
        atomic_write(out, json.dumps(found.to_dict(), indent=2) + "\n")
    return found


def train_once(
    *,
    model: str,
    data: str,
    data_dir: Path | None,
    masks: Path | None,
    weights: Path | None,
    init: str,
    recipe: Recipe,
    seed: int,
    out: Path,
    device: str,
    console: Console,
) -> History:
    """Build a network, train it (sparse with masks), and write weights.safetensors and history.json to `out`.

    Raises:
        ValueError: unknown names, masks or weights of another network, a checkpoint of another run in `out`.
    """
    loaded = load_cached(data, None if data_dir is None else str(data_dir))
    network = _network(model, loaded.shape, loaded.classes, weights=weights, init=init, seed=seed)
    mask = None if masks is None else Masks.load(masks)
    if mask is not None:
        console.print(f"{mask}", highlight=False)
    folder = make_folder(out)

    def show(point: Epoch) -> None:
        test = "" if point.test_loss is None else f"  test loss {point.test_loss:.4f}"
        if point.test_top1 is not None:
            test = f"  test accuracy {100 * point.test_top1:6.2f} %"
        console.print(
            f"epoch {point.epoch:3d}/{recipe.epochs}  train loss {point.train_loss or 0:.4f}{test}  "
            f"{point.seconds:.1f} s",
            highlight=False,
        )

    history = fit(
        network,
        loaded.train,
        loaded.test,
        recipe=recipe,
        masks=mask,
        loss=loaded.loss_function,
        seed=seed,
        device=device,
        checkpoint=folder / "checkpoint.pt",
        on_epoch=show,
    )
    atomic_write(folder / "weights.safetensors", save(_state(network)))
    atomic_write(folder / "history.json", history.to_json(indent=2))
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    if history.top1 is not None:
        console.print(f"test accuracy of the last epoch: {100 * history.top1:.2f} %", highlight=False)
    elif history.curve:
        console.print(f"test loss of the last epoch: {history.curve[-1].test_loss:.4g}", highlight=False)
    console.print(
        f"wrote {folder / 'weights.safetensors'} and {folder / 'history.json'}", highlight=False, soft_wrap=True
    )
    return history


def _network(
    name: str, input_shape: tuple[int, int, int], classes: int, *, weights: Path | None, init: str, seed: int
) -> nn.Module:
    network = create(name, input_shape=input_shape, classes=classes, init=init, seed=seed)
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(f"no weights at {weights}; give a safetensors file of the network's state dict")
        try:
            network.load_state_dict(load_file(weights))
        except SafetensorError as error:
            raise ValueError(f"{weights} is damaged or not a safetensors file ({error})") from error
        except RuntimeError as error:
            raise ValueError(f"the weights in {weights} belong to another network than {name!r}: {error}") from error
    return network


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as safetensors wants it: contiguous, on the CPU, no storage shared."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
