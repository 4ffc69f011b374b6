"""Masks under the Trainer of Lightning.

lightning.Trainer(callbacks=[MaskCallback(masks)])
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from foreprune.core.attach import Handle, attach, inner_optimizer
from foreprune.core.masks import Masks, parameters_of
from foreprune.integrations.carried import check_given, check_same, missing, packed, unknown, unpacked
from foreprune.integrations.metrics import mask_metrics


class _LightningMasks:
    """Keeps pruned weights exactly zero while a `lightning.Trainer` fits.

    Masks are attached when fitting begins, to the optimizers that the module has configured, and taken out when it
    ends; a second `fit` attaches them again. They are a part of every checkpoint, as a uint8 tensor of one bit per
    weight. Resumed training asks for masks: those given must be those of the checkpoint. Averages of the weights
    (`WeightAveraging`, `EMAWeightAveraging`) are masked too.

    Its numbers (`foreprune.integrations.mask_metrics`) are logged by the module, every `log_every_n_steps`, and go to
    all loggers of the trainer.

    Args:
        masks: under the names of the LightningModule's parameters: of masks for a network inside it,
            `masks.renamed(add="model.")`. None: those of the checkpoint that training resumes from.
        log: whether to log.

    Raises:
        TypeError: no masks.
        ValueError: when fitting begins: masks of another model, or that no optimizer trains; no masks in the
            checkpoint, or others.
    """

    def __init__(self, masks: Masks | None = None, *, log: bool = True) -> None:
        check_given(masks, "MaskCallback")
        self.masks = masks
        self.log = log
        self.handles: list[Handle] = []
        self._restored = False

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Forget an earlier fit."""
        if stage == "fit":
            self._restored = False
            self._detach()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {} if self.masks is None else {"masks": packed(self.masks)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the masks of a checkpoint, or compare them with those given."""
        saved = unpacked(state_dict["masks"])
        if self.masks is None:
            self.masks = saved
        check_same(saved, self.masks, where="the checkpoint")
        self._restored = True

    def on_sanity_check_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Attach: what is validated is the pruned network."""
        self._attach(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Attach, unless done."""
        self._attach(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log."""
        step = trainer.global_step
        if self.log and self.masks is not None and self.handles and step and step % trainer.log_every_n_steps == 0:
            pl_module.log_dict(mask_metrics(pl_module, self.masks), on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Take the hooks out."""
        if self.masks is not None:
            self.masks.apply_(pl_module)
        self._detach()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """Take the hooks out."""
        self._detach()

    def _attach(self, trainer: Any, pl_module: nn.Module) -> None:
        if self.handles:
            return
        if trainer.ckpt_path is not None and not self._restored:
            raise missing(f"the checkpoint {trainer.ckpt_path}", instead="trainer.fit(model) with those weights loaded")
        if self.masks is None:
            raise unknown()
        owners = parameters_of(pl_module, self.masks.shapes)
        rest = dict(self.masks)
        for optimizer in map(inner_optimizer, trainer.optimizers):
            trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            if own := {name: rest.pop(name) for name in list(rest) if id(owners[name]) in trained}:
                self.handles.append(attach(own, pl_module, optimizer))
        if not self.handles:
            raise ValueError(
                f"no optimizer of the trainer updates any of the {len(owners)} masked parameters "
                f"({next(iter(owners))}, ...); return one that does from configure_optimizers"
            )
        if rest:
            self.handles.append(attach(rest, pl_module))
        for callback in trainer.callbacks:
            for average in vars(callback).values():
                if isinstance(average, AveragedModel):
                    self.masks.apply_(average.module)

    def _detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []


@functools.cache
def _callback_class() -> type:
    try:
        from lightning.pytorch.callbacks import Callback
    except ModuleNotFoundError as error:
        if error.name != "lightning":
            raise
        raise ImportError("masks under Lightning need lightning: pip install 'foreprune[lightning]'") from error
    bases = (_LightningMasks, Callback)
    return type("MaskCallback", bases, {"__doc__": _LightningMasks.__doc__, "__module__": __name__})


def __getattr__(name: str) -> Any:
    # made at first use: it is derived from a class of Lightning
    if name == "MaskCallback":
        return _callback_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has MaskCallback")
