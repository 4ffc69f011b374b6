"""One network at a time: what `foreprune prune`, `foreprune analyze` and `foreprune train` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from foreprune.analysis import Analysis, analyze
from foreprune.api import SELECTION, Repair, prune
from foreprune.core.atomic import atomic_write
from foreprune.core.budget import Density
from foreprune.core.masks import Masks
from foreprune.core.select import Scope
from foreprune.core.unscored import Gates
from foreprune.methods import as_method
from foreprune.procedures.shared import state_of
from foreprune.records import Epoch, Scalar, make_folder
from foreprune.training.fit import fit
from foreprune.training.history import History
from foreprune.training.recipes import Recipe
from foreprune.zoo.datasets import DataSet, load_cached
from foreprune.zoo.images import ImageBatch
from foreprune.zoo.models import create


@dataclass(frozen=True, eq=False)
class OneNetwork:
    """A network at its initial weights, and the data it is for.

    Attributes:
        model: the network, on the CPU.
        shape: channels, height and width of an input.
        data: its data set, None if only the shape is known.
        seed: of the weights, and of whatever is drawn for it.
    """

    model: nn.Module
    shape: tuple[int, int, int]
    data: DataSet | None
    seed: int

    def batches(self, per_class: int) -> list[ImageBatch] | None:
        """So many training images of each class, None without data."""
        if self.data is None:
            return None
        return self.data.train.scoring_batches(per_class=per_class, seed=self.seed, device="cpu")


def build(
    name: str,
    *,
    data: str | None,
    data_dir: Path | None = None,
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    weights: Path | None = None,
    init: str = "kaiming-normal-fan-in",
    seed: int = 0,
) -> OneNetwork:
    """The network `name`; `data` decides about input shape and classes, where it is given.

    Raises:
        ValueError: unknown names, or `weights` that are damaged or of another network.
        FileNotFoundError: no data or no weights there.
    """
    loaded = None if data is None else load_cached(data, None if data_dir is None else str(data_dir))
    if loaded is not None:
        input_shape, classes = loaded.shape, loaded.classes
    model = create(name, input_shape=input_shape, classes=classes, init=init, seed=seed)
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(f"no weights at {weights}; give a safetensors file of the network's state dict")
        try:
            model.load_state_dict(load_file(weights))
        except SafetensorError as error:
            raise ValueError(f"{weights} is damaged or not a safetensors file ({error})") from error
        except RuntimeError as error:
            raise ValueError(f"the weights in {weights} belong to another network than {name!r}: {error}") from error
    return OneNetwork(model, input_shape, loaded, seed)


def prune_once(
    network: OneNetwork,
    method: str,
    *,
    density: Density,
    settings: Mapping[str, Scalar] | None = None,
    samples_per_class: int = 10,
    exclude: Sequence[str] = (),
    scope: Scope = "global",
    repair: Repair | None = None,
    gates: Gates = "erk",
    floor: float = 0.0,
) -> Masks:
    """The masks of `method`; arguments as on the command line.

    Raises:
        ValueError: a data-driven method without data, or `settings` that are arguments here.
    """
    if twice := [name for name in SELECTION if name in (settings or {})]:
        raise ValueError(f"{twice[0]} is no setting of {method!r} here but an option: write --{twice[0]}")
    needs = as_method(method).needs
    if network.data is None and needs - {"shape"}:
        raise ValueError(f"method {method!r} scores on data: add --data (and --data-dir), e.g. --data digits")
    batches = network.batches(samples_per_class)
    given: dict[str, Any] = dict(settings or {})
    if network.data is not None and batches is not None and "mean image" in needs:
        given["mean_image"] = network.data.train.mean_image(batches)
    return prune(
        network.model,
        method,
        density=density,
        inputs=torch.zeros(1, *network.shape),
        data=batches,
        loss=None if network.data is None else network.data.loss_function,
        scope=scope,
        gates=gates,
        floor=floor,
        seed=network.seed,
        prunable=[_as_pattern(entry, network.model) for entry in exclude] or None,
        repair=repair,
        **given,
    )


def _as_pattern(entry: str, model: nn.Module) -> str:
    """`entry` as a pattern to exclude: the name of a parameter, which says what to prune, becomes a glob of it."""
    name, bracket, labels = entry.partition("[")
    slots = {slot for slot, _ in model.named_parameters(remove_duplicate=False)}
    return f"{name[:-1]}[{name[-1]}]{bracket}{labels}" if name in slots else entry


def analyze_once(network: OneNetwork, *, masks: Masks | None = None, samples_per_class: int = 1) -> Analysis:
    """What masks leave of the network in evaluation mode; where there is data, with the tangent kernel.

    Raises:
        ValueError: masks of another network.
    """
    inputs = torch.zeros(1, *network.shape)
    return analyze(network.model.eval(), masks, inputs=inputs, data=network.batches(samples_per_class))


def train_once(
    network: OneNetwork,
    *,
    recipe: Recipe,
    out: Path,
    masks: Masks | None = None,
    device: str = "cpu",
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Train the network (sparse with masks), and write weights.safetensors and history.json to `out`.

    Raises:
        ValueError: no data, masks of another network, or a checkpoint of another run in `out`.
    """
    if network.data is None:
        raise ValueError("training needs data: name a data set, e.g. digits")
    folder = make_folder(out)
    history = fit(
        network.model,
        network.data.train,
        network.data.test,
        recipe=recipe,
        masks=masks,
        loss=network.data.loss_function,
        seed=network.seed,
        device=device,
        checkpoint=folder / "checkpoint.pt",
        on_epoch=on_epoch,
    )
    atomic_write(folder / "weights.safetensors", save(state_of(network.model)))
    atomic_write(folder / "history.json", history.to_json(indent=2))
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return history
