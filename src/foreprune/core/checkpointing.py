"""Activation checkpointing, switched off for the length of a scoring pass.

A checkpointed part is computed a second time in the backward pass, when the tensors of the scoring pass have left the
module again. Values and gradients are the same without it, so inside `without_checkpointing` a checkpointed function
simply runs, whoever calls `torch.utils.checkpoint.checkpoint` and under whichever name it was imported.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils import checkpoint as _torch

_GENERATOR = "_checkpoint_without_reentrant_generator"  # what `checkpoint` wraps its function in, without reentry

_lock = threading.Lock()
_scoring = threading.local()  # how deep this thread is inside; checkpoints of other threads stay what they are
_inside = 0  # over all threads
_original: Callable[..., Any] | None = None


@contextlib.contextmanager
def without_checkpointing() -> Iterator[None]:
    """`torch.utils.checkpoint`, both variants, runs functions directly in this thread; put back whatever happens."""
    _enter()
    _scoring.depth = getattr(_scoring, "depth", 0) + 1
    try:
        yield
    finally:
        _scoring.depth -= 1
        _leave()


def _direct() -> bool:
    return getattr(_scoring, "depth", 0) > 0


def _enter() -> None:
    global _inside, _original
    with _lock:
        _inside += 1
        if _inside == 1:
            _original = getattr(_torch, _GENERATOR, None)
            if _original is not None:
                setattr(_torch, _GENERATOR, _generator)
            _torch.CheckpointFunction.apply = staticmethod(_apply)  # type: ignore[method-assign]


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside:
            if _original is not None:
                setattr(_torch, _GENERATOR, _original)
            del _torch.CheckpointFunction.apply  # it is inherited


def _generator(*args: Any, **kwargs: Any) -> Any:
    """In place of the two halves around a checkpointed function, with hooks on what it saves: nothing."""
    if _direct():
        return (None for _ in range(1))
    assert _original is not None
    return _original(*args, **kwargs)


def _apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
    if _direct():
        return function(*args)
    function_class: Any = super(_torch.CheckpointFunction, _torch.CheckpointFunction)
    return function_class.apply(function, preserve, *args)
