"""Functions whose derivative torch cannot differentiate again, composed of others whose derivative it can.

Values and first derivatives are those of torch, up to rounding. Where torch takes a first derivative by convention (0
for the norm of zeros, and at the corners of piecewise linear functions) the second one follows the same convention:
there the function counts as constant, or as the piece that it is on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1e30  # the logarithm of no probability: finite, so that differences of two of them are
_IMPOSSIBLE = 1e29
_NORMS = (torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm)


def composed(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """What to call in place of `func` with the same arguments; None if `func` can be differentiated twice."""
    if func in _NORMS:
        return lambda *args, **kwargs: _norm(func, *args, **kwargs)
    if func in _RECURRENT:
        return lambda *args, **kwargs: _recurrent(func, *args, **kwargs)
    return _COMPOSED.get(func)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """clamp(x / 6 + 1 / 2, 0, 1)."""
    result = F.relu6(input + 3) / 6
    return input.copy_(result) if inplace else result


def _reduced(losses: Tensor, reduction: str, size_average: bool | None, reduce: bool | None) -> Tensor:
    """Torch's reductions; `size_average` and `reduce` are their deprecated spelling."""
    if size_average is not None or reduce is not None:
        average = size_average is None or size_average
        reduction = "none" if reduce is False else "mean" if average else "sum"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over classes j of w_y max(0, margin - x_y + x_j)^p, without j = y."""
    index = target.unsqueeze(-1)
    excess = (margin - input.gather(-1, index) + input).clamp_min(0)
    losses = (excess if p == 1 else excess.square()).scatter(-1, index, 0)
    if weight is not None:
        losses = losses * weight[index]
    return _reduced(losses.mean(-1), reduction, size_average, reduce)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The sum over labels y and other classes j of max(0, 1 - (x_y - x_j)), over the number of classes; the labels of a
    sample end at the first -1."""
    listed = (target >= 0).cumprod(-1).bool()
    is_label = torch.zeros(input.shape, dtype=torch.int64, device=input.device)
    is_label = is_label.scatter_add(-1, target.clamp_min(0), listed.long()) > 0
    of_labels = input.gather(-1, target.clamp_min(0))
    excess = (1 - of_labels.unsqueeze(-1) + input.unsqueeze(-2)).clamp_min(0)
    counted = listed.unsqueeze(-1) & ~is_label.unsqueeze(-2)
    losses = torch.where(counted, excess, 0).sum((-1, -2)) / input.shape[-1]
    return _reduced(losses, reduction, size_average, reduce)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log of the probability of all alignments, by the forward recursion of Graves et al. 2006."""
    batched = log_probs.dim() == 3
    logs = log_probs if batched else log_probs.unsqueeze(1)  # (time, batch, classes)
    device, batch = logs.device, logs.shape[1]
    times = torch.as_tensor(input_lengths, device=device).reshape(-1).expand(batch)
    lengths = torch.as_tensor(target_lengths, device=device).reshape(-1).expand(batch)
    symbols = _padded(targets.to(device).long(), lengths, blank)
    # blank, first symbol, blank, second symbol, ..., blank
    states = torch.full((batch, 2 * symbols.shape[1] + 1), blank, dtype=torch.int64, device=device)
    states[:, 1::2] = symbols
    skips = torch.zeros_like(states, dtype=torch.bool)  # from the symbol before, past the blank between them
    skips[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    never = torch.full_like(logs[0, :, :1], _NEVER)
    alpha = torch.cat([logs[0].gather(1, states[:, :2]), never.expand(-1, states.shape[1] - 2)], 1)
    alpha = alpha[:, : states.shape[1]]
    for time in range(1, logs.shape[0]):
        one = torch.cat([never, alpha[:, :-1]], 1)
        two = torch.where(skips, torch.cat([never, never, alpha[:, :-2]], 1)[:, : states.shape[1]], _NEVER)
        moved = torch.logsumexp(torch.stack([alpha, one, two]), 0) + logs[time].gather(1, states)
        alpha = torch.where((time < times)[:, None], moved, alpha)
    ends = torch.stack([2 * lengths, (2 * lengths - 1).clamp_min(0)], 1)
    last = alpha.gather(1, ends)
    last = torch.stack([last[:, 0], torch.where(lengths > 0, last[:, 1], _NEVER)], 1)
    losses = -torch.logsumexp(last, 1)
    losses = torch.where(losses > _IMPOSSIBLE, 0.0 if zero_infinity else torch.inf, losses)
    if reduction == "mean":
        losses = losses / lengths.clamp_min(1).to(losses.dtype)
    return _reduced(losses if batched else losses[0], reduction, None, None)


def _padded(targets: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Targets (batch, longest), also of those that are given one after the other."""
    longest = int(lengths.max()) if lengths.numel() else 0
    if targets.dim() == 1:
        rows = torch.split(targets[: int(lengths.sum())], lengths.tolist())
        targets = torch.stack([F.pad(row, (0, longest - len(row)), value=blank) for row in rows])
    within = torch.arange(longest, device=targets.device) < lengths[:, None]
    return torch.where(within, targets[:, :longest], blank)


def _norm(
    func: Callable[..., Tensor], input: Tensor, order: Any = None, dim: Any = None, *rest: Any, **kwargs: Any
) -> Tensor:
    """A norm that is constant where it is zero, as its first derivative is 0 there; a second one would be NaN."""
    given = {key: kwargs.pop(key) for key in ("p", "ord") if key in kwargs}
    order = next(iter(given.values()), order)
    dim = kwargs.pop("dim", dim)
    name = "p" if func in (torch.norm, Tensor.norm) else "ord"
    settings = {**({} if order is None else {name: order}), "dim": dim}

    def norm(value: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
        return func(value, *rest, **settings, **kwargs)

    if rest:  # keepdim by position
        kwargs["keepdim"] = rest[0]
    found = norm(input, **kwargs)
    if order == "nuc" or not found.requires_grad or not bool((found == 0).any()):
        return found
    zero = norm(input.detach(), **{**kwargs, "keepdim": True}) == 0
    safe = norm(torch.where(zero, 1.0, input), **kwargs)
    return torch.where(found.detach() == 0, 0.0, safe)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None) -> Tensor:
    """x / max(|x|, eps), with a norm that has second derivatives."""
    result = input / _norm(torch.norm, input, p, dim, keepdim=True).clamp_min(eps)
    return result if out is None else out.copy_(result)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The product of both, normalized."""
    return (normalize(x1, dim=dim, eps=eps) * normalize(x2, dim=dim, eps=eps)).sum(dim)


def _recurrent(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """cuDNN's recurrent layers have no second derivatives, torch's own have."""
    with torch.backends.cudnn.flags(enabled=False):
        return func(*args, **kwargs)


_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_COMPOSED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.hardsigmoid: hardsigmoid,
    F.multi_margin_loss: multi_margin_loss,
    F.multilabel_margin_loss: multilabel_margin_loss,
    F.ctc_loss: ctc_loss,
    F.normalize: normalize,
    F.cosine_similarity: cosine_similarity,
}
