"""The forms that data come in, as batches: arguments of a forward call, a target, how many samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

_LABELS = ("labels", "label", "target", "targets", "y")  # where a mapping may hold its target
_POSITIONS = ("start_positions", "end_positions")  # what models that answer questions call their targets
_Names = frozenset[str]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Arguments of one forward call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    def call(self, function: Callable[..., Any]) -> Any:
        """`function(*args, **kwargs)`."""
        return function(*self.args, **(self.kwargs or {}))

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with `function` applied to every tensor in them, also inside lists and mappings."""
        mapped = map_tensors(self.args, function)
        return Inputs(mapped, map_tensors(self.kwargs, function))

    def tensors(self) -> list[Tensor]:
        """Every tensor in the arguments."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs, their targets and how many samples they are.

    `with_labels` are the inputs together with the labels, for a model whose forward takes both and computes its loss;
    otherwise None.
    """

    inputs: Inputs
    target: Any
    size: int
    with_labels: Inputs | None = None


def materialize(
    data: Any, device: torch.device, *, labeled: bool = True, module: nn.Module | None = None
) -> tuple[Batch, ...]:
    """Batches from one batch `(input, target)` or an iterable of them, moved to `device`.

    `input` is a tensor, a tuple of tensors (positional arguments) or a mapping (keyword arguments); `(a, b, target)`
    stands for `((a, b), target)`. A mapping with "labels" (or "label", "target", "targets", "y") is a batch by itself.
    Where labels are not needed, a tensor, a mapping, a list of one tensor, or as many tensors as the forward of
    `module` takes is a batch of inputs, and targets are left out where there are some.

    Raises:
        TypeError: something that is neither, or that does not fit the forward of `module`.
        ValueError: no batch at all.
    """
    forward = _Forward.of(module)
    if _is_batch(data, forward, labeled=labeled):
        batches: Iterable[Any] = [data]
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise TypeError(
            "data must be a batch (input, target) or an iterable of batches; it is a data set of single samples, not "
            f"{type(data).__name__}; e.g. data=x or a DataLoader, DataLoader(dataset, batch_size=64)"
        )
    elif isinstance(data, (Tensor, str)) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be a batch (input, target) or an iterable of batches, not {type(data).__name__}; "
            + (
                "pass the targets too, data=(x, y); for a method that looks at shapes only pass inputs= instead"
                if labeled
                else "e.g. data=x or a DataLoader"
            )
        )
    else:
        batches = data
    found = tuple(_to_batch(batch, device, forward, labeled=labeled) for batch in batches)
    if not found or not sum(batch.size for batch in found):
        raise ValueError("data holds no batch: an empty iterable, or an iterator that was already used up")
    return found


def as_inputs(inputs: Any, *, module: nn.Module | None = None) -> Inputs:
    """One forward call's arguments from a tensor, a tuple of them or a mapping.

    Raises:
        TypeError: none of these, or not what the forward of `module` takes.
    """
    found = _as_inputs(inputs)
    _Forward.of(module).check(found, "inputs=")
    return found


def _as_inputs(inputs: Any) -> Inputs:
    if isinstance(inputs, Inputs):
        return inputs
    if isinstance(inputs, Mapping):
        return Inputs((), dict(inputs))
    if isinstance(inputs, Tensor):
        return Inputs((inputs,))
    if (
        isinstance(inputs, (tuple, list))
        and inputs
        and all(isinstance(item, (Tensor, Mapping, list, tuple)) for item in inputs)
    ):
        return Inputs(tuple(inputs))
    raise TypeError(
        f"inputs must be a tensor, a tuple of tensors (positional arguments) or a mapping (keyword arguments), "
        f"not {type(inputs).__name__}; e.g. inputs=torch.zeros(1, 3, 32, 32)"
    )


@dataclass(frozen=True)
class _Forward:
    """What the forward of a module takes; of an unknown one nothing is known."""

    signature: inspect.Signature | None
    module: nn.Module | None = None
    hooked: bool = False  # a hook in front of it may change its arguments

    @classmethod
    def of(cls, module: nn.Module | None) -> _Forward:
        if module is None:
            return cls(None)
        try:
            return cls(inspect.signature(module.forward), module, bool(module._forward_pre_hooks))
        except (TypeError, ValueError):
            return cls(None)

    @property
    def names(self) -> _Names:
        """Parameters that have a name."""
        if self.signature is None:
            return frozenset()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return frozenset(name for name, p in self.signature.parameters.items() if p.kind in named)

    @property
    def required(self) -> _Names:
        """Those of them that it cannot do without."""
        if self.signature is None:
            return frozenset()
        empty = inspect.Parameter.empty
        return frozenset(name for name in self.names if self.signature.parameters[name].default is empty)

    def takes(self, count: int) -> bool | None:
        """Whether it can be called with so many positional arguments; None if nobody knows."""
        if self.signature is None or self.hooked:
            return None
        try:
            self.signature.bind(*range(count))
        except TypeError:
            return False
        return True

    def check(self, inputs: Inputs, what: str) -> None:
        """Raise TypeError for arguments that it does not take."""
        if self.signature is None or self.hooked:
            return
        try:
            self.signature.bind(*inputs.args, **(inputs.kwargs or {}))
        except TypeError as error:
            names = list(self.signature.parameters)
            given = f"{len(inputs.args)} in order" if inputs.args else ", ".join(inputs.kwargs or {}) or "none"
            raise TypeError(
                f"{what} does not fit the model, whose forward takes {', '.join(names[:8]) or 'nothing'}"
                f"{', ...' if len(names) > 8 else ''} and would get {given} ({error}); give what it takes, in order as "
                "a tuple or by name as a mapping"
            ) from None


def _is_batch(data: Any, forward: _Forward, *, labeled: bool) -> bool:
    """Whether `data` is one batch, not an iterable of them."""
    if isinstance(data, Mapping) or (isinstance(data, Tensor) and not labeled):
        return True
    if not isinstance(data, (tuple, list)) or len(data) < 2:
        return False
    first, *_, last = data
    if len(data) == 2 and last is None and not labeled:
        return isinstance(first, (Tensor, Mapping))
    if len(data) == 2 and isinstance(last, Mapping):
        return isinstance(first, Tensor)
    if not isinstance(last, Tensor):
        return False
    if all(isinstance(item, Tensor) for item in data):
        if isinstance(data, list) and not (labeled and len(data) == 2) and _alike(data):  # several batches of inputs
            return False
        if len(data) == 2 or labeled:
            return True
        return bool(forward.takes(len(data) - 1) or forward.takes(len(data)))
    return len(data) == 2 and (
        isinstance(first, Mapping)
        or (isinstance(first, (tuple, list)) and all(isinstance(item, Tensor) for item in first))
    )


def _alike(tensors: Iterable[Tensor]) -> bool:
    return len({(tensor.shape[1:], tensor.dtype) for tensor in tensors}) == 1


def _to_batch(batch: Any, device: torch.device, forward: _Forward, *, labeled: bool) -> Batch:
    inputs: Any
    labels: dict[str, Any] = {}
    if isinstance(batch, Mapping):
        inputs, target, labels = _from_mapping(batch, forward, labeled=labeled)
    elif isinstance(batch, (tuple, list)):
        inputs, target = _from_sequence(batch, forward, labeled=labeled)
    elif isinstance(batch, Tensor) and not labeled:
        inputs, target = batch, None
    else:
        raise _no_batch(batch, labeled=labeled)
    if labeled and isinstance(target, (int, float, str)):
        raise TypeError(
            f"the target of a batch is {target!r}, one value: data yields single samples; wrap the data set, "
            "data=DataLoader(dataset, batch_size=64)"
        )
    moved = _as_inputs(inputs).map(lambda tensor: tensor.detach().to(device))
    tensors = moved.tensors()
    if not tensors or not tensors[0].dim():
        raise TypeError(
            f"a batch needs an input tensor with a batch axis, and this one has {'one number' if tensors else 'none'}"
        )
    forward.check(moved, "a batch of data")
    target, labels = (map_tensors(part, lambda tensor: tensor.to(device)) for part in (target, labels))
    both = Inputs(moved.args, {**(moved.kwargs or {}), **labels}) if labels else None
    return Batch(moved, target, tensors[0].shape[0], both)


def _from_mapping(batch: Mapping[Any, Any], forward: _Forward, *, labeled: bool) -> tuple[dict[Any, Any], Any, Any]:
    """(inputs, target, labels that the forward takes, by its names for them)."""
    names, needed = forward.names, forward.required
    own = {key: value for key, value in batch.items() if key in names and _is_label(key, key in needed)}
    key = next((key for key in _LABELS if key in batch and (key in own or key not in names)), None)
    inputs = {name: value for name, value in batch.items() if name in needed or (name != key and name not in own)}
    if key is not None and not own and "labels" in names:  # what transformers' data collators do
        own = {"labels": batch[key]}
    if labeled and key is None and not own:
        raise TypeError(
            "a batch that is a mapping needs 'labels' (or 'label', 'target', 'targets', 'y'); it has "
            f"{', '.join(map(str, batch)) or 'nothing'}"
        )
    if "labels" in own and "decoder_input_ids" in names and "decoder_input_ids" not in inputs:
        shifted = _shifted(own["labels"], getattr(forward.module, "config", None))
        inputs |= {} if shifted is None else {"decoder_input_ids": shifted}
    return inputs, (own or None) if key is None else batch[key], own


def _shifted(labels: Any, config: Any) -> Tensor | None:
    """Labels as inputs of the decoder, which encoder-decoders of transformers make only where they get the labels."""
    start, padding = getattr(config, "decoder_start_token_id", None), getattr(config, "pad_token_id", None)
    if not getattr(config, "is_encoder_decoder", False) or start is None or not isinstance(labels, Tensor):
        return None
    shifted = labels.roll(1, -1)
    shifted[..., 0] = start
    return shifted.masked_fill(shifted == -100, padding or 0)


def _is_label(name: str, required: bool) -> bool:
    """Whether an argument of a forward is a target."""
    return name in _POSITIONS or "label" in name or (name in ("target", "targets") and not required)


def _from_sequence(batch: tuple[Any, ...] | list[Any], forward: _Forward, *, labeled: bool) -> tuple[Any, Any]:
    """(inputs, target)."""
    count = len(batch)
    if count == 1 and not labeled:  # as of a TensorDataset of inputs
        return batch[0], None
    tensors = all(isinstance(item, Tensor) for item in batch)
    if count < 2 or (count > 2 and not tensors):
        raise _no_batch(batch, labeled=labeled)
    if not labeled and tensors and forward.takes(count) and not forward.takes(count - 1):
        return tuple(batch), None
    if count > 2 and forward.takes(count - 1) is False:
        raise _no_batch(batch, labeled=labeled)
    return (batch[0] if count == 2 else tuple(batch[:-1])), batch[-1]


def _no_batch(batch: Any, *, labeled: bool) -> TypeError:
    allowed = "a pair (input, target) or a mapping with 'labels'" if labeled else "inputs, or (input, target)"
    if not isinstance(batch, (tuple, list)):
        return TypeError(f"each batch must be {allowed}, not {type(batch).__name__}")
    return TypeError(
        f"each batch must be {allowed}, not {type(batch).__name__} of {len(batch)}; several inputs come before their "
        "target, (a, b, y), and are as many tensors as the model's forward takes"
    )


# torch.utils._pytree takes a mapping that it does not know, such as a tokenizer's output, for a leaf
def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `function` applied to every tensor in it, inside lists, tuples and mappings."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
