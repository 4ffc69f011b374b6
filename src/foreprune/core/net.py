"""`Net`: a read-only functional view of any `nn.Module`.

Scores call the *real* forward with other tensors in the places of the parameters. The user's module is left as it was
found: parameters are read through detached aliases, buffers are replaced by clones for the length of a call, and the
training flags are put back.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from foreprune.core.blocks import Block
from foreprune.core.checkpointing import without_checkpointing
from foreprune.core.converted import refuse_converted
from foreprune.core.layer_weights import LayerWeight, computed, layer_weights, passed_in
from foreprune.core.masks import Masks
from foreprune.core.prunable import Prunable, select_prunable
from foreprune.core.select import keep_best
from foreprune.core.sharding import is_sharded, refuse_flattened
from foreprune.core.targets import unwrapped

BatchNormMode = Literal["train", "eval"]
Params = Mapping[str, Tensor]
_IN_PLACE = (
    "the model, or its loss, overwrites in place what gradients need, in evaluation mode, in which it is scored: "
    "replace the operation (x += y by x = x + y); where a model of transformers keeps a state, write "
    "model.config.use_cache = False"
)
_NO_HOOKS = (
    "the model sets hooks on the tensors that autograd saves (activation checkpointing of its own, or offloading), "
    "which may compute activations again after the scores have taken their weights out of it; switch that off while "
    "pruning (checkpoints of torch.utils.checkpoint are switched off for you)"
)
_REENTRANT = ("incompatible with .grad()", "not compatible with .grad()")  # what checkpoints that are no hooks say


@dataclass(frozen=True, eq=False)
class Net:
    """A module, the tensors it runs on and the names of those that may be pruned. Build it with `Net.of`.

    Attributes:
        module: the user's module, never changed for longer than a call.
        params: detached aliases of its parameters, one entry for each distinct tensor, under its first name. The entry
            of a prunable parameter from which a parametrization computes the weight of a layer (weight or spectral
            normalization) is that weight, and stands for it in every call: such a network is scored like the one whose
            parametrizations have been removed.
        prunable: names of the weights to prune, in the order of the module.
        blocks: the parts of these that may be pruned: a whole weight, or its named rows where it holds several layers.
    """

    module: nn.Module
    params: dict[str, Tensor]
    prunable: tuple[str, ...]
    blocks: tuple[Block, ...]
    _slots: dict[str, str]  # every (module, attribute) slot once -> the key of its tensor in `params`
    computed: dict[str, LayerWeight] = field(default_factory=dict)  # prunable name -> the weight computed from it

    @classmethod
    def of(cls, module: nn.Module, *, prunable: Prunable = None) -> Net:
        """View `module`; `prunable` as in `foreprune.prune`. Compiled and data-parallel wrappers are looked through.

        Raises:
            TypeError: not a module, or one that was scripted, traced, exported or quantized.
            ValueError: parameters without values (lazy, or on the meta device), or nothing to prune.
        """
        refuse_converted(module)
        if not isinstance(module, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {type(module).__name__}")
        module = unwrapped(module)
        refuse_flattened(module)
        if cls is Net and any(map(is_sharded, module.parameters())):
            raise ValueError(
                "the parameters of the model are sharded over processes (DTensor), and this needs the whole model in "
                "one process: call it before fully_shard (prune and score take sharded models)"
            )
        params: dict[str, Tensor] = {}
        first_name: dict[int, str] = {}
        slots: dict[str, str] = {}
        # named_modules() visits a module that is reachable by two paths once, so each slot is listed exactly once:
        # swapping a slot twice would leave the second tensor behind in the user's module.
        for prefix, owner in module.named_modules():
            for attribute, parameter in owner._parameters.items():
                if parameter is None:
                    continue
                name = f"{prefix}.{attribute}" if prefix else attribute
                if isinstance(parameter, nn.parameter.UninitializedParameter):
                    raise ValueError(f"parameter {name!r} is not initialized yet: run the model once, then prune it")
                if parameter.is_meta:
                    raise ValueError(
                        f"parameter {name!r} is on the meta device and has no values; write model.to_empty(device=...) "
                        "and initialize it, then prune it"
                    )
                key = first_name.setdefault(id(parameter), name)
                slots[name] = key
                if key == name:
                    value = parameter.detach()
                    params[name] = value.clone() if value.is_inference() else value
        blocks = select_prunable(module, slots, prunable)
        names = tuple(dict.fromkeys(block.parameter for block in blocks))
        made = {
            weight.stored: weight
            for weight in layer_weights(module)
            if weight.computed_by is not None and weight.stored in names
        }
        if spread := [name for name in made if is_sharded(params[name])]:
            raise ValueError(
                f"the weight {made[spread[0]].name!r} is computed by {made[spread[0]].computed_by}, which is followed "
                "in one process only: prune the model before fully_shard, or exclude the layer with prunable="
            )
        params |= {name: computed(module, weight) for name, weight in made.items()}
        return cls(module=module, params=params, prunable=names, blocks=blocks, _slots=slots, computed=made)

    @property
    def slots(self) -> Mapping[str, str]:
        """Every name of a parameter -> the name it has in `params`."""
        return self._slots

    def restricted(self, blocks: Iterable[Block]) -> Net:
        """The same network of which only these blocks may be pruned."""
        blocks = tuple(blocks)
        return replace(self, prunable=tuple(dict.fromkeys(block.parameter for block in blocks)), blocks=blocks)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameter -> shape."""
        return {name: tuple(value.shape) for name, value in self.params.items()}

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What this process holds of a tensor of the shape of a parameter: all of it."""
        return whole

    def deferred(self, name: str, make: Callable[[Tensor], Tensor], *, dtype: torch.dtype | None = None) -> Tensor:
        """`make(params[name])`, which goes entry by entry, in `dtype` (default: that of the parameter). Where processes
        hold parts, computed when a layer is gathered."""
        return make(self.params[name])

    def masked(self, masks: Masks) -> dict[str, Tensor]:
        """`masks(params)`, not to be changed in place."""
        return {
            name: self.deferred(name, partial(_masked, masks, name)) if name in masks else value
            for name, value in self.params.items()
        }

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The whole of which this process holds `part`; of the shape of a parameter."""
        return part

    def fill(self, name: str, out: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """`draw(out)`, which fills a tensor of the shape of a parameter in place; of that `out` is what this process
        holds, and it gets its part of what `draw` makes of the whole."""
        return draw(out)

    def place(self, tensor: Tensor) -> int:
        """Where the numbers of a tensor are: the same for a parameter that is passed to a call and what the forward
        meets in its place, or a view of that."""
        return tensor.untyped_storage().data_ptr()

    def of_block(self, tensor: Tensor, block: Block) -> Tensor:
        """What this process holds of a block, of a tensor of the shape of its parameter."""
        return tensor[block.index]

    def any(self, tensor: Tensor, block: Block) -> bool:
        """Whether a block of a tensor of the shape of its parameter is not zero."""
        return bool(self.of_block(tensor, block).any())

    def rows(self, name: str, tensor: Tensor, axis: int) -> NDArray[np.bool_]:
        """Which rows along `axis` of a tensor of the shape of a parameter are not zero."""
        others = [other for other in range(tensor.dim()) if other != axis]
        found: NDArray[np.bool_] = (tensor != 0).any(others).cpu().numpy()
        return found

    def keep_best(self, scores: Mapping[str, Tensor], keep: Any, **options: Any) -> Masks:
        """`foreprune.core.select.keep_best`."""
        return keep_best(scores, keep, **options)

    def kept(self, masks: Masks) -> int:
        """How many prunable weights masks keep."""
        return masks.kept

    def dense(self) -> Masks:
        """Masks that keep everything."""
        return Masks.dense(self.weights, blocks=self.blocks)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The tensors with prunable weights, whole."""
        return {name: self.params[name] for name in self.prunable}

    @cached_property
    def magnitudes(self) -> dict[str, Tensor]:
        """|w| of every parameter, prunable or not."""
        return {name: value.abs() for name, value in self.params.items()}

    @cached_property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def size(self) -> int:
        """Number of parameters."""
        return sum(value.numel() for value in self.params.values())

    @property
    def sums(self) -> bool:
        """Whether derivatives are sums over processes already."""
        return False

    @property
    def holds_scores(self) -> bool:
        """Whether there is room for the scores of a round beside those of the next."""
        return True

    @property
    def replayable(self) -> bool:
        """Whether a call is tensor operations and nothing else, so that their list can stand for it."""
        return True

    def owners(self, passed: Params) -> MutableMapping[int, Tensor]:
        """Address of each tensor that the forward meets in the next call with `passed` -> the parameter in whose place
        it stands."""
        return {value.data_ptr(): self.params[name] for name, value in passed.items() if name in self.params}

    def saving(self, message: str) -> contextlib.AbstractContextManager[Any]:
        """Hooks on what autograd saves are refused with `message`."""
        return torch.autograd.graph.disable_saved_tensors_hooks(message)

    def parting(self, nodes: Iterable[Any]) -> contextlib.AbstractContextManager[Callable[[Tensor], Tensor | None]]:
        """For the length of a second derivative, of a graph with these nodes: what has to be added to what it gives
        for a leaf, None if nothing."""
        return contextlib.nullcontext(lambda leaf: None)

    @property
    def device(self) -> torch.device:
        """Where the prunable weights are; data is moved there."""
        return self.params[self.prunable[0]].device

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward with `params` in place of its parameters, and of copies of its buffers, by name;
        missing ones are its own."""
        tensors = {slot: params.get(key, self.params[key]) for slot, key in self._slots.items()}
        made = {weight: tensors.pop(name) for name, weight in self.computed.items()}
        found = [(owner, dict(owner._buffers)) for owner in self.module.modules()]
        for prefix, owner in self.module.named_modules():
            for attribute, buffer in owner._buffers.items():
                if buffer is not None:
                    name = f"{prefix}.{attribute}" if prefix else attribute
                    tensors[name] = params.get(name, buffer).clone()
        caches = [(owner, name) for owner in self.module.modules() for name in vars(owner) if _is_cache(owner, name)]
        kept = [vars(owner)[name] for owner, name in caches]
        try:
            for owner, name in caches:  # what was computed from other weights
                vars(owner)[name] = {}
            with passed_in(self.module, made):
                return functional_call(self.module, tensors, args, kwargs, tie_weights=False)
        finally:
            for (owner, name), values in zip(caches, kept, strict=True):
                vars(owner)[name] = values
            for owner, buffers in found:  # a forward may fill a buffer that was None, or register a new one
                owner._buffers.clear()
                owner._buffers.update(buffers)


def _masked(masks: Masks, name: str, value: Tensor) -> Tensor:
    return masks({name: value})[name]


def _is_cache(owner: nn.Module, name: str) -> bool:
    """Whether a module keeps there what it has computed from its parameters, such as gathered attention biases."""
    return "cache" in name and type(vars(owner)[name]) is dict


@contextlib.contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Training and evaluation modes of every part of `module` are afterwards what they were."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def set_modes(module: nn.Module, *, batchnorm: BatchNormMode) -> None:
    """Evaluation mode (no dropout) for every part, except batch normalization with `batchnorm="train"`."""
    for part in module.modules():
        part.training = batchnorm == "train" and isinstance(part, nn.modules.batchnorm._BatchNorm)


@contextlib.contextmanager
def scoring(net: Net, *, batchnorm: BatchNormMode = "eval") -> Iterator[None]:
    """Modes for a scoring pass, put back afterwards whatever happens.

    Everything is in evaluation mode (no dropout), except batch normalization with `batchnorm="train"`, which then uses
    the statistics of the scoring batch. Gradients are enabled; autocast, inference mode, compilation and activation
    checkpointing are off.

    Raises:
        ValueError: unknown mode, a model with saved-tensor hooks or checkpoints that are not torch's, or one that
            overwrites what its gradients need.
    """
    if batchnorm not in ("train", "eval"):
        raise ValueError(f'batchnorm must be "train" (statistics of the scoring batch) or "eval", not {batchnorm!r}')
    try:
        with (
            modes_kept(net.module),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(net.device.type, enabled=False),
            net.saving(_NO_HOOKS),
            without_checkpointing(),
            _uncompiled(),
        ):
            set_modes(net.module, batchnorm=batchnorm)
            yield
    except RuntimeError as error:
        if str(error) == _NO_HOOKS or any(words in str(error) for words in _REENTRANT):
            raise ValueError(_NO_HOOKS) from error
        if "modified by an inplace operation" in str(error):
            raise ValueError(_IN_PLACE) from error
        raise


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    """Run compiled parts eagerly: compiled code knows neither the tensors nor the function mode of a scoring pass."""
    # nothing can have been compiled before the compiler was imported, which takes seconds
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


@contextlib.contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and `random` inside, and put every global state back afterwards."""
    # users' data sets draw from these
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()):
            # torch.manual_seed would leave a seed waiting for a CUDA that is not up yet
            torch.manual_seed(seed) if cuda else torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def primary_output(output: Any) -> Tensor:
    """The tensor a default loss or a path sum looks at: the output itself, its `logits`, or its first tensor.

    Raises:
        TypeError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    values: Iterable[Any] = ()
    if isinstance(output, Mapping):
        values = output.values()
    elif isinstance(output, Sequence):
        values = output
    for value in values:
        if isinstance(value, Tensor):
            return value
    raise TypeError(
        f"the model returned {type(output).__name__} with no tensor in it; return a tensor, a tuple that begins with "
        "one, or a mapping with 'logits'"
    )
