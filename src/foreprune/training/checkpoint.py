"""Checkpoints of a training run: written whole or not at all, read without executing anything, refused if not ours.

A checkpoint names the run it belongs to (recipe, seed, shapes of the model, masks, number of batches). No random state
is stored: `fit` seeds every epoch from the seed and the epoch's number, so an epoch is the same whenever it runs. Where
a schedule changes the masks, those in force are stored with the weights.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreprune.core.atomic import atomic_write
from foreprune.training.history import Epoch
from foreprune.training.recipes import Recipe

FORMAT = "foreprune-checkpoint/1"
Identity = dict[str, Any]


def identity(
    model: nn.Module,
    *,
    recipe: Recipe,
    masks: Mapping[str, Tensor] | None,
    scheduled: bool,
    seed: int,
    steps_per_epoch: int,
) -> Identity:
    """What has to be the same for a run to be continued. Settings at their defaults are left out, so that a setting
    added later, to `Recipe` or here, does not orphan old files."""
    return {
        "recipe": {
            field.name: _plain(getattr(recipe, field.name))
            for field in fields(recipe)
            if getattr(recipe, field.name) != field.default
        },
        "seed": seed,
        "batches per epoch": steps_per_epoch,
        "model": _digest_model(model),
        "masks": _digest_masks(masks),
        **({"scheduled": True} if scheduled else {}),
    }


def save_checkpoint(
    path: Path,
    *,
    run: Identity,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    curve: list[Epoch],
    updates: int,
    masks: Mapping[str, Tensor] | None,
) -> None:
    """Write everything the next epoch needs; `masks` are those in force where a schedule changes them.

    Raises:
        OSError: the file cannot be written; an earlier checkpoint is still there.
    """
    buffer = io.BytesIO()
    content = {
        "format": FORMAT,
        "run": json.dumps(run),
        "curve": [asdict(point) for point in curve],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "updates": updates,
    }
    if masks is not None:
        content["masks"] = dict(masks)
    torch.save(content, buffer)
    atomic_write(path, buffer.getvalue())


def read_checkpoint(path: Path, *, run: Identity) -> tuple[dict[str, Any], list[Epoch]]:
    """The content of a checkpoint of this very run, tensors on the CPU, and its curve.

    Raises:
        ValueError: damaged, no checkpoint of `fit`, or one of another run; the message names the difference.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} is no training checkpoint of format {FORMAT!r} (found {found!r}); give another path")
    try:
        stored = json.loads(content["run"])
        curve = [Epoch(**point) for point in content["curve"]]
        parts = [content[part] for part in ("model", "optimizer", "scaler")]
        if stored.get("scheduled", False):
            parts.append(content["masks"])
        difference = _difference(stored, run)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error
    if difference:
        raise ValueError(
            f"checkpoint {path} belongs to another run: {difference}; give another path, or delete it to start anew"
        )
    if not all(isinstance(part, dict) for part in parts):
        raise _damaged(path, "a state is not a mapping")
    if not isinstance(content.get("updates", 0), int):
        raise _damaged(path, "the number of updates is no number")
    return content, curve


def _read(path: Path) -> Any:
    try:
        # torch does not look at the checksums inside its own files; without this a flipped bit goes unnoticed
        with zipfile.ZipFile(path) as archive:
            spoiled = archive.testzip()
        if spoiled is not None:
            raise _damaged(path, f"the checksum of {spoiled} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, RuntimeError, KeyError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    except Exception as error:  # pickle raises its own kind for anything but plain data, and plenty of others for noise
        if isinstance(error, (ValueError, OSError)):
            raise
        raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike[str], why: object) -> ValueError:
    reason = str(why).strip().splitlines()[0] if str(why).strip() else type(why).__name__
    return ValueError(f"checkpoint {path} is damaged ({reason}); delete it to train from the start")


def _difference(stored: Identity, run: Identity) -> str:
    """The first difference in words, or nothing."""
    ours, theirs = run["recipe"], stored["recipe"]
    defaults = {field.name: _plain(field.default) for field in fields(Recipe)}
    for name, default in defaults.items():
        here, there = ours.get(name, default), theirs.get(name, default)
        if here != there:
            return f"recipe.{name} is {there!r} there and {here!r} here"
    if unknown := set(theirs) - set(defaults):
        return f"its recipe has {sorted(unknown)[0]!r}, which this version does not know"
    for part in ("seed", "batches per epoch"):
        if stored[part] != run[part]:
            return f"{part} is {stored[part]} there and {run[part]} here"
    changing = stored.get("scheduled", False)
    if changing != run.get("scheduled", False):
        return f"its masks {'follow' if changing else 'do not follow'} a schedule"
    if stored["model"] != run["model"]:
        return "the names or shapes of the model's tensors differ"
    if stored["masks"] != run["masks"]:
        words = ["no masks" if value is None else "masks" for value in (stored["masks"], run["masks"])]
        return f"it has {words[0]} and this run has {words[1]}" if words[0] != words[1] else "its masks differ"
    return ""


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value


def _digest_model(model: nn.Module) -> str:
    layout = [(name, list(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    return hashlib.sha256(json.dumps(layout).encode()).hexdigest()


def _digest_masks(masks: Mapping[str, Tensor] | None) -> str | None:
    if masks is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(masks):
        mask = masks[name]
        digest.update(json.dumps([name, list(mask.shape)]).encode())
        digest.update(np.packbits(mask.flatten().cpu().numpy()).tobytes())
    return digest.hexdigest()
