"""Where the training that counts begins: masks and weights of a method, at its step, or of a procedure."""

from __future__ import annotations

from dataclasses import replace

from foreprune.core.net import Net
from foreprune.procedures.dense_steps import steps_of
from foreprune.procedures.registered import Start, ablation_of, check_procedure, procedure_of, settings_of
from foreprune.procedures.shared.dense import check_step, network_at, order_at
from foreprune.procedures.shared.pruning import prune_with
from foreprune.procedures.shared.run_context import RunContext
from foreprune.records import Experiment

_REINIT_SEEDS = 1_000_003  # torch seeds its generator with 32 bits, so 2**32 more would be the same draw


def start_of(run: RunContext) -> Start:
    """Prune as the experiment says: method or procedure, at its step, then the ablation.

    Raises:
        TypeError, ValueError: settings that do not fit; whatever the method raises.
    """
    experiment = run.experiment
    check_procedure(experiment)
    for step in steps_of(experiment):
        check_step(step, run.steps)
    if experiment.method == "dense":
        model = run.network()
        return Start(model, Net.of(model).dense(), experiment.seed, 0.0)
    if procedure := procedure_of(experiment):
        start = procedure.start(run, **settings_of(experiment))
    else:
        model = network_at(run, experiment.prune_at)
        masks, seconds = prune_with(run, model, experiment.method, experiment.hyper)
        start = Start(model, masks, order_at(run, experiment.prune_at), seconds)
    return _ablated(start, experiment)


def _ablated(start: Start, experiment: Experiment) -> Start:
    """After an ablation of masks or weights; one of the method has changed what chose the masks."""
    ablation = ablation_of(experiment)
    if ablation is None or ablation.changes == "method":
        return start
    value = {ablation.value: experiment.widen} if ablation.value else {}
    if ablation.changes == "masks":
        network = {"model": start.model} if ablation.takes_model else {}
        return replace(start, masks=ablation.apply(start.masks, seed=experiment.seed, **network, **value))
    # another draw than the one that was scored, which has the same seed
    seed = experiment.seed + _REINIT_SEEDS
    weights = ablation.apply(start.model, start.masks, init=experiment.init, seed=seed, **value)
    start.model.load_state_dict(weights, strict=False)  # other buffers than the running statistics stay
    return start
