"""One run: build the network, prune it, train it, test it, write down what came out."""

from __future__ import annotations

import importlib
import inspect
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreprune import ablations
from foreprune.analysis.analyze import analyze
from foreprune.api import prune
from foreprune.core.atomic import atomic_write
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.experiments.spec import Epoch, Experiment, Layer, Record
from foreprune.experiments.store import make_folder, run_folder, write_record
from foreprune.methods import method as find_method
from foreprune.training.fit import fit
from foreprune.zoo import datasets, models
from foreprune.zoo.images import ImageFolder, ImageSet

_REINIT_SEEDS = 1_000_003  # torch seeds its generator with 32 bits, so 2**32 more would be the same draw
_SCORING_BATCH = 1000  # samples scored at once; ten per class fit up to a hundred classes
Batches = list[tuple[Tensor, Tensor]]
Images = ImageSet | ImageFolder


@lru_cache(maxsize=1)
def load_data(name: str, data_dir: str | None) -> datasets.DataSet:
    """A data set, kept in memory for the next run that asks for the same."""
    return datasets.load(name, data_dir=data_dir)


def load_model(
    name: str, *, input_shape: tuple[int, int, int], classes: int, init: str = "kaiming-normal-fan-in", seed: int = 0
) -> nn.Module:
    """A network of the zoo by name, or one that `package.module:factory` builds.

    A factory is called with those of input_shape, classes and seed that it names; torch's generator is seeded around
    it. `init` belongs to the zoo: a factory draws its own weights.

    Raises:
        ValueError: unknown name, or a factory that cannot be imported.
        TypeError: a factory that returns no module.
    """
    if ":" not in name:
        return models.create(name, input_shape=input_shape, classes=classes, init=init, seed=seed)
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import the model {name!r} ({error}); write package.module:factory, with the folder that "
            "holds the package on PYTHONPATH"
        ) from error
    offered = {"input_shape": input_shape, "classes": classes, "seed": seed}
    parameters = inspect.signature(factory).parameters.values()
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    known = {p.name for p in parameters}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory(**{key: value for key, value in offered.items() if takes_all or key in known})
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name!r} must build a torch.nn.Module, not {type(model).__name__}")
    return model


def scoring_batches(train: Images, *, per_class: int, seed: int, device: torch.device | str) -> Batches:
    """`per_class` images of each class, shuffled, in batches of at most a thousand."""
    images, labels = train.per_class(per_class, seed=seed)
    pairs = zip(torch.split(images, _SCORING_BATCH), torch.split(labels, _SCORING_BATCH), strict=True)
    return [(x.to(device), y.to(device)) for x, y in pairs]


def mean_image(train: Images, batches: Batches) -> Tensor:
    """Mean of the raw pixels in [0, 1], (C, H, W): of all training images in memory, else of the scoring batches."""
    if isinstance(train, ImageSet):
        chunks = [chunk.double().sum(0) for chunk in torch.split(train.images, _SCORING_BATCH)]
        return torch.stack(chunks).sum(0).div(255 * len(train)).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (train.mean, train.std))
    images = torch.cat([x.cpu() for x, _ in batches])
    return (images.mean(0) * std + mean).clamp(min=0)


def prune_for(experiment: Experiment, model: nn.Module, train: Images, *, device: str) -> Masks:
    """The masks of one experiment, from its training images; the dense reference keeps everything."""
    if experiment.method == "dense":
        return Masks.dense(Net.of(model).weights)
    found = find_method(experiment.method)
    hyper: dict[str, Any] = dict(experiment.hyper)
    batches = scoring_batches(train, per_class=experiment.samples_per_class, seed=experiment.seed, device=device)
    if "mean_image" in found.hyper:
        hyper.setdefault("mean_image", mean_image(train, batches))
    masks = prune(
        model,
        ablations.invert(found) if experiment.ablation == "invert" else found,
        density=experiment.density,
        inputs=batches[0][0][:1],
        data=batches if "labels" in found.needs else None,
        seed=experiment.seed,
        scope=experiment.scope,
        **hyper,
    )
    return ablations.shuffle(masks, seed=experiment.seed) if experiment.ablation == "shuffle" else masks


def reinitialise_for(experiment: Experiment, model: nn.Module, masks: Masks) -> None:
    """Give the pruned network new weights, where that is the ablation."""
    schemes: dict[str, ablations.Scheme] = {"reinit": "dense", "reinit-layer": "layer", "reinit-neuron": "neuron"}
    if experiment.ablation in schemes:
        # another draw than the one that was scored, which has the same seed
        seed = experiment.seed + _REINIT_SEEDS
        weights = ablations.reinitialise(model, masks, scheme=schemes[experiment.ablation], seed=seed)
        model.load_state_dict(weights, strict=False)


def layers_of(masks: Masks) -> tuple[Layer, ...]:
    """Counts and remaining units of every prunable tensor, in order."""
    counts, widths, shapes = masks.layer_counts(), masks.widths(), masks.shapes
    return tuple(
        Layer(
            name=name,
            shape=shapes[name],
            kept=counts[name][0],
            total=counts[name][1],
            units_alive=widths[name][0],
            units=widths[name][1],
        )
        for name in masks
    )


def structure_of(model: nn.Module, masks: Masks, shape: tuple[int, int, int]) -> dict[str, float | int | None]:
    """What the masks leave of the network at its initial weights, as the numbers of `Record.analysis`."""
    try:
        found = analyze(model, masks, inputs=torch.zeros(1, *shape))
    except ValueError as error:  # a network too odd to analyse can be pruned and trained all the same
        warnings.warn(f"analysis: {error}", stacklevel=2)
        return {}
    shares = [width.connected / width.units for width in found.widths.values() if width.connected is not None]
    plain = found.to_dict()
    names = ("effective_density", "log10_paths", "log10_path_norm", "log10_path_kernel_trace", "macs", "dense_macs")
    return {
        **{name: plain[name] for name in names},
        "width": sum(shares) / len(shares) if shares else None,
        "dead_layers": len(found.dead_layers),
    }


def run_experiment(
    experiment: Experiment,
    *,
    out: Path,
    data_dir: str | None = None,
    device: str = "cpu",
    environment: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Record:
    """Carry one experiment out and write its record, which is returned; a failure is a record too.

    The run's folder holds `record.json`, `masks.safetensors` and, while it trains, `checkpoint.pt`: a run that was
    interrupted continues from there. A failure leaves its traceback in `traceback.txt`.
    """
    folder = make_folder(run_folder(out, experiment))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    facts: dict[str, Any] = {}
    note = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = load_data(experiment.data, data_dir)
            note = data.note
            facts = _measure(experiment, data, folder, device=device, on_epoch=on_epoch)
            status, error = "finished", None
            (folder / "traceback.txt").unlink(missing_ok=True)
        except Exception as failure:  # whatever a user's model or data can raise is this run's result
            status, error = "failed", f"{type(failure).__name__}: {failure}"
            facts = {"curve": getattr(failure, "curve", ())}
            atomic_write(folder / "traceback.txt", traceback.format_exc().encode())
    record = Record.model_validate(
        {
            "id": experiment.id,
            "experiment": experiment,
            "status": status,
            "error": error,
            "warnings": tuple(dict.fromkeys(str(item.message) for item in caught)),
            "environment": {
                **(environment or {}),
                **({"data_note": note} if note else {}),
                "started": started,
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            **facts,
        }
    )
    write_record(out, record)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return record


def _measure(
    experiment: Experiment,
    data: datasets.DataSet,
    folder: Path,
    *,
    device: str,
    on_epoch: Callable[[Epoch], None] | None,
) -> dict[str, Any]:
    train = data.train
    if experiment.train_size:
        train = train.subset(experiment.train_size, seed=experiment.seed)
    model = load_model(
        experiment.model, input_shape=data.shape, classes=data.classes, init=experiment.init, seed=experiment.seed
    ).to(device)
    begun = time.perf_counter()
    masks = prune_for(experiment, model, train, device=device)
    seconds = time.perf_counter() - begun
    reinitialise_for(experiment, model, masks)
    masks.save(folder / "masks.safetensors", metadata={"experiment": experiment.id})
    left = structure_of(model, masks, data.shape)
    history = fit(
        model,
        train,
        data.test,
        recipe=experiment.recipe,
        masks=masks,
        seed=experiment.seed,
        device=device,
        checkpoint=folder / "checkpoint.pt",
        checkpoint_every=max(1, experiment.recipe.epochs // 10),
        on_epoch=on_epoch,
    )
    return {
        "top1": history.top1,
        "top5": history.top5,
        "kept": masks.kept,
        "total": masks.total,
        "layers": layers_of(masks),
        "analysis": left,
        "curve": history.curve,
        "seconds_prune": seconds,
        "seconds_train": history.seconds,
    }
