"""Masks under the Trainer of transformers.

Trainer(model, args, train_dataset=data, callbacks=[MaskCallback(masks)])
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from foreprune.core.attach import Handle
from foreprune.core.masks import Masks
from foreprune.integrations.carried import FILE, check_given, check_same, digest, missing, unknown
from foreprune.integrations.metrics import mask_metrics


class _TrainerMasks:
    """Keeps pruned weights exactly zero while a `transformers.Trainer` trains.

    Masks are attached when training begins, to whatever optimizer the trainer has made, and taken out when it ends; the
    best model that is loaded then has them too. Every checkpoint folder gets a file masks.safetensors. Resumed training
    asks for masks: those given must be those of the checkpoint.

    Its numbers (`foreprune.integrations.mask_metrics`) join those that the trainer logs of a training step: in
    `state.log_history`, on the console, and at reporters (TensorBoard, W&B, MLflow) that come after this callback. The
    trainer puts the reporters of `report_to` before callbacks that it is given; `add_to` puts this one before them.

    Args:
        masks: for the model that the trainer is given, under its names. None: those of the checkpoint that training
            resumes from.
        log: whether to log.

    Raises:
        TypeError: no masks.
        ValueError: when training begins: masks of another model; no masks in the checkpoint, or others.
    """

    def __init__(self, masks: Masks | None = None, *, log: bool = True) -> None:
        check_given(masks, "MaskCallback")
        self.masks = masks
        self.log = log
        self.handle: Handle | None = None

    def add_to(self, trainer: Any) -> Any:
        """Put this callback before all others of `trainer`, so that its reporters log the numbers; returns itself."""
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(known for known in callbacks if known is not self)]
        return self

    def state(self) -> dict[str, Any]:
        """What the trainer writes to trainer_state.json."""
        return {"args": {}, "attributes": {"digest": None if self.masks is None else digest(self.masks)}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Attach."""
        self._detach()
        if state.global_step:
            self._resume(args, state)
        if self.masks is None:
            raise unknown()
        self.handle = self.masks.attach(model, optimizer)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write masks.safetensors into the checkpoint."""
        folder = _folder(args, state)
        if args.should_save and folder.is_dir():  # trials of a search are elsewhere
            assert self.masks is not None
            self.masks.save(folder / FILE)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: Any = None, model: Any = None, **_: Any) -> None:
        """Add the numbers to those of a training step."""
        if self.log and self.handle is not None and self.masks is not None and logs and "loss" in logs:
            found = mask_metrics(model, self.masks)
            logs.update(found)
            if state.log_history:
                state.log_history[-1].update(found)

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """Take the hooks out. What was loaded since, as the best model, is masked too."""
        if self.masks is not None:
            self.masks.apply_(model)
        self._detach()

    def _resume(self, args: Any, state: Any) -> None:
        where = f"the checkpoint at step {state.global_step}"
        saved = state.stateful_callbacks.get(type(self).__name__)
        states = saved if isinstance(saved, list) else [saved]
        digests = {one["attributes"].get("digest") for one in states if one} - {None}
        if not digests:
            raise missing(where, instead="Trainer.train() with a model from that folder")
        folders = [_folder(args, state)]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        file = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
        if self.masks is None:
            if file is None:
                raise ValueError(
                    f"{where} has lost its masks: there is no {FILE} in {' or '.join(map(str, folders))}; "
                    "if its folder was moved, which the Trainer does not tell, give "
                    "MaskCallback(foreprune.Masks.load(path))"
                )
            self.masks = Masks.load(file)
        if digest(self.masks) not in digests:
            if file is not None:
                check_same(Masks.load(file), self.masks, where=where)
            raise ValueError(
                f"{where} was trained with other masks than those given ({self.masks.kept:,} of {self.masks.total:,} "
                f"weights kept); resume with its own, which stand in its {FILE}, or start a new training"
            )

    def _detach(self) -> None:
        if self.handle is not None:
            self.handle.remove()
        self.handle = None


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


@functools.cache
def _callback_class() -> type:
    try:
        from transformers.trainer_callback import ExportableState, TrainerCallback
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "transformers":
            raise
        raise ImportError("masks under the Trainer need transformers: pip install 'foreprune[hf]'") from error
    bases = (_TrainerMasks, TrainerCallback, ExportableState)
    return type("MaskCallback", bases, {"__doc__": _TrainerMasks.__doc__, "__module__": __name__})


def __getattr__(name: str) -> Any:
    # made at first use: it is derived from a class of transformers
    if name == "MaskCallback":
        return _callback_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has MaskCallback")
