"""What the runs of all trainers share: one cell of the matrix, averages, the loop of those who write their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from contract.extras import imported
from integrations.shared import Net, Points, masks_for, network, revived, watched
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, DistributedSampler

from foreprune import Masks

BATCH = 16
CLIP = 0.1  # the norm
AVERAGES = ("ema", "timm", "unmasked")  # features with an average of the weights
Found = dict[str, Any]


def _graphs() -> int:
    """How many graphs have been compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@dataclass
class Cell:
    """What is to be run, and what is found.

    Attributes:
        layout: single, ddp or fsdp2.
        feature: what is switched on. "unmasked": pruned weights are zero in the beginning, and nothing keeps them so.
        steps: of the optimizer.
        folder: for checkpoints.
        found: steps taken; weights revived after any of them, in the end, in the average and after a checkpoint was
            loaded; kept weights that did not move; whether the feature was on, the masks were in the checkpoint, and
            parameters sharded.
    """

    layout: str
    feature: str
    steps: int
    folder: Path
    masks: Masks = field(default_factory=lambda: masks_for(network()))
    found: Found = field(default_factory=lambda: {"steps": 0, "revived": 0})

    @property
    def masked(self) -> bool:
        return self.feature != "unmasked"

    @contextlib.contextmanager
    def watched(self, net: Net) -> Iterator[None]:
        """Look after every step, and whether what is to be switched on is on."""
        norms: list[float] = []
        types: list[str] = []

        def norm(*_: object) -> None:
            held = [getattr(one.grad, "to_local", lambda one=one: one.grad)() for one in net.parameters()]
            norms.append(float(torch.stack([part.norm() for part in held]).norm()))

        def output(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
            types.append(str(logits.dtype))

        before = _graphs()
        with watched(net, self.masks) as seen, contextlib.ExitStack() as hooks:
            if self.feature == "clip":
                hooks.callback(register_optimizer_step_post_hook(norm).remove)
            if self.feature in ("accumulate", "bf16"):
                hooks.callback(net.head.register_forward_hook(output).remove)
            yield
        self.found["steps"] += seen.steps
        self.found["revived"] += seen.revived
        if self.feature == "compile":
            self.found["on"] = _graphs() > before
        elif self.feature == "clip":
            self.found["on"] = min(norms) > 0 and max(norms) < CLIP * 1.001
        elif self.feature == "accumulate":
            self.found["on"] = len(types) == 2 * seen.steps
        elif self.feature == "bf16":
            self.found["on"] = set(types) == {"torch.bfloat16"}

    def loaded(self, net: Net) -> None:
        """A checkpoint has been loaded."""
        self.found["loaded"] = revived(net, self.masks)

    def end(self, net: Net, average: Average | None = None) -> None:
        """Training is over."""
        start, weights = network(), {name: whole(net.get_parameter(name).detach()) for name in self.masks}
        self.found["end"] = sum(int((weights[name][~mask] != 0).sum()) for name, mask in self.masks.items())
        self.found["still"] = sum(
            int((weights[name] == start.get_parameter(name))[mask].sum()) for name, mask in self.masks.items()
        )
        self.found["sharded"] = sharded(net)
        if average is not None:
            self.found["average"] = average.revived(self.masks)


class Average:
    """An average of a network's weights: PyTorch's, or timm's, or, of a module under `fully_shard`, which cannot be
    copied as those two do, of the parameters alone. `made`: one that a trainer has made and looks after."""

    def __init__(self, net: Net, feature: str, *, made: nn.Module | None = None) -> None:
        self.net = net
        self.values: dict[str, Tensor] = {}
        self.model: Any = made
        if made is not None:
            return
        if feature == "timm":
            self.model = imported("timm.utils").ModelEmaV3(net, decay=0.99)
        elif sharded(net):
            self.values = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
        else:
            self.model = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99))

    def update(self, *_: object, **__: object) -> None:
        if isinstance(self.model, AveragedModel):
            self.model.update_parameters(self.net)
        elif self.model is not None:
            self.model.update(self.net)
        else:
            for name, parameter in self.net.named_parameters():
                self.values[name].lerp_(parameter.detach(), 0.01)

    def revived(self, masks: Masks) -> int:
        if self.model is not None:
            return revived(net_in(self.model), masks)
        return sum(int((whole(self.values[name])[~mask] != 0).sum()) for name, mask in masks.items())


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is spread over processes, gathered."""
    gathered: Tensor = getattr(tensor, "full_tensor", lambda: tensor)()
    return gathered


def sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of each weight, and no more."""
    weights: list[Any] = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    return all(hasattr(weight, "to_local") and weight.to_local().numel() < weight.numel() for weight in weights)


def net_in(model: nn.Module) -> Net:
    """The network inside whatever a trainer has made of it."""
    return next(module for module in model.modules() if isinstance(module, Net))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.1)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def allow_sharding_on_cpus() -> None:
    """accelerate shards on GPUs only, and on CPUs takes DistributedDataParallel without a word."""
    state = imported("accelerate.state")
    original = state.AcceleratorState.__init__
    if original.__name__ == "begin":  # done
        return

    def begin(self: Any, *args: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **settings)
        if fsdp_plugin is not None and self.distributed_type == state.DistributedType.MULTI_CPU:
            state.PartialState._shared_state["distributed_type"] = state.DistributedType.FSDP
            self.distributed_type, self.fsdp_plugin = state.DistributedType.FSDP, fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)

    state.AcceleratorState.__init__ = begin


def batches(steps: int) -> Iterator[dict[str, Tensor]]:
    """Batches for so many passes of the network, on each process its own."""
    data = Points()
    sampler = DistributedSampler(data, world(), rank(), shuffle=True) if world() > 1 else None
    loader = DataLoader(data, batch_size=BATCH, shuffle=sampler is None, sampler=sampler)
    done = 0
    while True:
        for batch in loader:
            if done == steps:
                return
            done += 1
            yield batch


def loop(
    cell: Cell,
    forward: Callable[..., Any],
    backward: Callable[[Tensor], object],
    optimizer: Any,
    steps: int,
    *,
    clip: Callable[[], object],
    after: Callable[[], object] = lambda: None,
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> None:
    """An ordinary loop. `around` is the context in which a library accumulates gradients and casts by itself."""
    each = 2 if cell.feature == "accumulate" else 1
    low = cell.feature == "bf16" and around is None
    for index, batch in enumerate(batches(steps * each)):
        with around() if around else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = forward(**batch)["loss"]
            backward(loss if around else loss / each)
            if around or (index + 1) % each == 0:
                if cell.feature == "clip":
                    clip()
                optimizer.step()
                optimizer.zero_grad()
                after()
