"""Embeddings of token ids, drawn from a normal distribution instead of looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foreprune.core.init import normal_

_IDS = "_foreprune_drawn_ids"
_LOOKUPS = ("embedding", "embedding_bag", "getitem", "index_select")


class DrawnEmbeddings(TorchFunctionMode):
    """What a table of parameters holds for ids that come from the inputs is replaced by draws from N(0, 1).

    They are drawn anew and noted in `drawn`, or those `known` from another pass.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        generator: torch.Generator,
        known: Iterable[Tensor] | None = None,
        *,
        place: Callable[[Tensor], int] = lambda tensor: tensor.untyped_storage().data_ptr(),
    ) -> None:
        super().__init__()
        self.place = place  # where the numbers of a parameter are, of what the forward meets in its place too
        self.tables = {place(parameter) for parameter in parameters}
        self.generator = generator
        self.drawn: list[Tensor] = []
        self.looked_up: set[int] = set()
        self.known = None if known is None else iter(known)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not any(hasattr(value, _IDS) for value in _tensors((args, kwargs))):
            return result
        for value in _tensors(result):
            if not value.is_floating_point() and value.dtype != torch.bool:
                mark(value)
        if func.__name__.strip("_") not in _LOOKUPS:
            return result
        floats = (value for value in _tensors((args, kwargs)) if value.is_floating_point())
        tables = [value for value in floats if self.place(value) in self.tables]
        if tables and isinstance(result, Tensor) and result.is_floating_point():
            self.looked_up.add(self.place(tables[0]))
            return self._draw(result)
        return result

    def has(self, parameter: Tensor) -> bool:
        """Whether something was looked up in it."""
        return self.place(parameter) in self.looked_up

    def _draw(self, like: Tensor) -> Tensor:
        if self.known is None:
            self.drawn.append(normal_(torch.empty_like(like, requires_grad=False), 1.0, self.generator))
            return self.drawn[-1].clone()
        noted = next(self.known, None)
        if noted is None or noted.shape != like.shape:
            raise ValueError(
                "the network looks up its embeddings in another order when its weights are perturbed (control flow "
                "that depends on activations), so their draws cannot be shared; use 'synflow'"
            )
        return noted.clone()


def mark(ids: Tensor) -> Tensor:
    """The same tensor, as one that comes from the inputs."""
    setattr(ids, _IDS, True)
    return ids


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
