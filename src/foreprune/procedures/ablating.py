"""The ablations of a run: where the names in `Experiment.ablation` meet `foreprune.ablations`. Torch-free at load.

An ablation changes the scores (before pruning), the masks or the weights (after it), and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from foreprune.records import Experiment

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foreprune.core.masks import Masks
    from foreprune.core.method import Method

Changes = Literal["scores", "masks", "weights"]
_REINIT_SEEDS = 1_000_003  # torch seeds its generator with 32 bits, so 2**32 more would be the same draw


@dataclass(frozen=True)
class RunAblation:
    """What a run's ablation does.

    Attributes:
        changes: "scores": apply(method) -> Method; "masks": apply(masks, experiment) -> Masks;
            "weights": apply(model, masks, experiment) -> name -> tensor.
        apply: that function.
        takes_fraction: whether a number may follow its name, `Experiment.widen`.
    """

    changes: Changes
    apply: Callable[..., Any]
    takes_fraction: bool = False


def _shuffle(masks: Masks, experiment: Experiment) -> Masks:
    from foreprune import ablations

    return ablations.shuffle(masks, seed=experiment.seed)


def _widen(masks: Masks, experiment: Experiment) -> Masks:
    from foreprune import ablations

    return ablations.widen(masks, fraction=experiment.widen, seed=experiment.seed)


def _reinitialize(scheme: Literal["dense", "layer", "neuron"]) -> RunAblation:
    def weights(model: nn.Module, masks: Masks, experiment: Experiment) -> dict[str, Tensor]:
        from foreprune import ablations

        # another draw than the one that was scored, which has the same seed
        return ablations.reinitialize(model, masks, scheme=scheme, seed=experiment.seed + _REINIT_SEEDS)

    return RunAblation("weights", weights)


def _invert(method: Method) -> Method:
    from foreprune import ablations

    return ablations.invert(method)


ABLATIONS: Mapping[str, RunAblation] = MappingProxyType(
    {
        "shuffle": RunAblation("masks", _shuffle),
        "widen": RunAblation("masks", _widen, takes_fraction=True),
        "reinit": _reinitialize("dense"),
        "reinit-layer": _reinitialize("layer"),
        "reinit-neuron": _reinitialize("neuron"),
        "invert": RunAblation("scores", _invert),
    }
)
