"""Masks inside the checkpoints of trainers: how they travel, and the sentences for those that are missing or others."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreprune.core.masks import Masks

FILE = "masks.safetensors"


def check_given(masks: object, owner: str) -> None:
    """Raise TypeError for what is neither masks nor None."""
    if masks is not None and not isinstance(masks, Masks):
        raise TypeError(
            f"{owner} takes foreprune.Masks, or None for those of the checkpoint that training resumes from, not "
            f"{type(masks).__name__}"
        )


def digest(masks: Masks) -> str:
    """SHA-256 of names, shapes and bits, in hexadecimal; equal for equal masks, whatever their order and metadata."""
    found = hashlib.sha256()
    for name in sorted(masks):
        mask = masks[name].cpu()
        found.update(json.dumps([name, list(mask.shape)]).encode())
        found.update(np.packbits(mask.numpy()).tobytes())
    return found.hexdigest()


def packed(masks: Masks) -> Tensor:
    """The bytes of a mask file (`Masks.save`), uint8: one bit per weight."""
    with tempfile.TemporaryDirectory() as folder:
        content = masks.save(Path(folder) / FILE).read_bytes()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def unpacked(content: Tensor) -> Masks:
    """The masks of such bytes; they are read without trust.

    Raises:
        ValueError: damaged, or no masks.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_bytes(content.cpu().numpy().tobytes())
        return Masks.load(path)


def check_same(saved: Masks, given: Masks, *, where: str) -> None:
    """Raise ValueError unless the masks of a checkpoint are those given."""
    if saved != given:
        raise ValueError(
            f"{where} was trained with other masks ({_summary(saved)}) than those given ({_summary(given)}); resume "
            "with its own, or start a new training"
        )


def unknown() -> ValueError:
    """The error for a new training without masks."""
    return ValueError(
        "MaskCallback() without masks takes those of the checkpoint that training resumes from, but this training "
        "begins anew; give MaskCallback(masks)"
    )


def missing(where: str, *, instead: str) -> ValueError:
    """The error for a checkpoint without masks."""
    return ValueError(
        f"{where} holds no masks, so its weights were not trained with them: resume from a checkpoint that was written "
        f"with them attached, or start a new training from its weights ({instead})"
    )


def _summary(masks: Masks) -> str:
    return f"{masks.kept:,} of {masks.total:,} weights kept"
