"""Where the training that counts begins: masks and weights of a method, at its step, or of a procedure."""

from __future__ import annotations

from dataclasses import replace

from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.procedures.ablating import ABLATIONS
from foreprune.procedures.dense_steps import steps_of
from foreprune.procedures.registered import Start, check_procedure, procedure_of, settings_of
from foreprune.procedures.shared.dense import check_step, network_at, order_at
from foreprune.procedures.shared.pruning import prune_with
from foreprune.procedures.shared.run_context import RunContext


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
        return Start(model, Masks.dense(Net.of(model).weights), experiment.seed, 0.0)
    if procedure := procedure_of(experiment):
        start = procedure.start(run, **settings_of(experiment))
    else:
        model = network_at(run, experiment.prune_at)
        masks, seconds = prune_with(run, model, experiment.method, experiment.hyper)
        start = Start(model, masks, order_at(run, experiment.prune_at), seconds)
    ablation = ABLATIONS.get(experiment.ablation)
    if ablation and ablation.changes == "masks":
        return replace(start, masks=ablation.apply(start.masks, experiment))
    if ablation and ablation.changes == "weights":
        start.model.load_state_dict(ablation.apply(start.model, start.masks, experiment), strict=False)  # not buffers
    return start
