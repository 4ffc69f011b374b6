"""One cell of the matrix: a network and a method (or `analyze`), tried as a user would, and what came of it."""

from __future__ import annotations

import contextlib
import copy
import linecache
import math
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from contract.photograph import differences, photograph
from models.fused import parts
from models.network import Given
from torch import nn

import foreprune as fp
from foreprune.core.net import modes_kept
from foreprune.core.task import as_inputs

DENSITY = 0.1
LONGEST = 400  # characters of an error that a user still reads
ADVICE = (";", "must", "pass ", "use ", "give ", "write ", "try ", "look ", "run ", "switch", "exclude", "prune the")
ANALYZE = "analyze"
RIGHT = ("ok", "warned", "refused", "partly")
PACKAGE = str(Path(fp.__file__).parent)
ROUNDS = {"rounds": 3}
FEWER: Mapping[str, Mapping[str, Any]] = {"ntk-sap": {"rounds": 2, "resamplings": 1, "samples": 8}}


@dataclass(frozen=True)
class Cell:
    """What came of one call.

    Attributes:
        outcome: "ok"; "warned", masks with a warning of ours; "refused", an error of ours in one sentence; "partly", an
            analysis that says what it leaves out; "raw", any other error; "wrong", not what was asked for.
        detail: the warning, the refusal, the error or what is wrong; "" for "ok".
        seconds: of the call.
    """

    outcome: str
    detail: str
    seconds: float

    @property
    def right(self) -> bool:
        return self.outcome in RIGHT


def columns() -> tuple[str, ...]:
    """Every method, and `analyze`."""
    return (*(method.name for method in fp.list_methods()), ANALYZE)


def arguments(column: str, given: Given) -> dict[str, Any]:
    """What the column is called with: the method's own defaults but for the number of rounds."""
    batch = (given.inputs, given.target)
    if column == ANALYZE:
        return {"inputs": given.inputs}
    method = fp.get_method(column)
    passed: dict[str, Any] = {}
    if method.needs & {"images", "labels", "mean image"}:
        passed["data"] = batch
    if "shape" in method.needs:
        passed["inputs"] = given.inputs
    if "labels" in method.needs and given.loss is not None:
        passed["loss"] = given.loss
    if "rounds" in method.settings:
        passed.update(FEWER.get(column, ROUNDS))
    return passed


def try_cell(given: Given, column: str, *, density: float = DENSITY, expected: frozenset[str] = frozenset()) -> Cell:
    """Call it; judge the result and what it did to the model and the process. `expected` warnings are passed over."""
    before = photograph(given.model)
    result, caught, error, seconds = _call(given, column, density)
    if touched := differences(before, photograph(given.model)):
        return Cell("wrong", f"changed the caller's state: {', '.join(touched[:5])}", seconds)
    if error is not None:
        problem = _not_ours(error)
        if problem is None:
            return Cell("refused", str(error), seconds)
        return Cell("raw", f"{problem}: {_described(error)}", seconds)
    caught = [warning for warning in caught if str(warning.message) not in expected]
    ours = [str(warning.message) for warning in caught if _is_ours(warning)]
    if column == ANALYZE:
        problem = _wrong_analysis(result)
        notes = [note for note in result.notes if note.startswith("paths:")]
        outcome = ("partly", " | ".join(notes)) if notes else ("ok", "")
    else:
        problem = _wrong_masks(result, column, given, density, ours)
        outcome = ("warned", " | ".join(ours)) if ours else ("ok", "")
    if problem is None and (leaked := [warning for warning in caught if not _is_ours(warning)]):
        problem = f"a warning that is not ours: {leaked[0].category.__name__}: {str(leaked[0].message)[:200]}"
    return Cell("wrong", problem, seconds) if problem is not None else Cell(*outcome, seconds)


def _call(
    given: Given, column: str, density: float
) -> tuple[Any, list[warnings.WarningMessage], Exception | None, float]:
    result, error, begun = None, None, time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if column == ANALYZE:
                masks = fp.prune(given.model, "random", density=density)
                del caught[:]
                result = fp.analyze(given.model, masks, **arguments(column, given))
            else:
                result = fp.prune(given.model, column, density=density, **arguments(column, given))
        except Exception as found:
            error = found
    seconds = time.perf_counter() - begun
    return result, caught, error, seconds


def own_warnings(given: Given) -> frozenset[str]:
    """What the network warns of by itself. Its first forward is made here: some networks of transformers install hooks
    in it."""
    lazy = any(isinstance(one, nn.parameter.UninitializedParameter) for one in given.model.parameters())
    if lazy or type(given.model).__name__ == "OptimizedModule":  # whose first forward takes half a minute
        return frozenset()
    inputs = as_inputs(given.inputs)
    with (
        warnings.catch_warnings(record=True) as caught,
        torch.random.fork_rng(devices=()),
        torch.no_grad(),
        contextlib.suppress(Exception),  # then every cell says what
    ):
        warnings.simplefilter("always")
        inputs.call(copy.deepcopy(given.model).train())
        with modes_kept(given.model):
            inputs.call(given.model.eval())
    return frozenset(str(warning.message) for warning in caught)


def _is_ours(warning: warnings.WarningMessage) -> bool:
    """Our warnings point to the line that called us, or into the package."""
    return warning.filename == __file__ or warning.filename.startswith(PACKAGE)


def _not_ours(error: Exception) -> str | None:
    """Why an error is not one of ours in one sentence; None if it is."""
    if not isinstance(error, (ValueError, TypeError)):
        return "not a ValueError or TypeError"
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not last.filename.startswith(PACKAGE):
        return f"raised in {last.filename.rpartition('site-packages/')[2]}"
    if not linecache.getline(last.filename, last.lineno or 0).strip().startswith("raise "):
        return f"raised by a call in {last.filename.removeprefix(PACKAGE)}:{last.lineno}"
    words = str(error)
    if "\n" in words or len(words) > LONGEST:
        return f"not one sentence ({len(words)} characters)"
    if not any(sign in words for sign in ADVICE):
        return "says nothing about what to do"
    return None


def _described(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)]
    place = f" [{frames[-1].filename.removeprefix(PACKAGE + '/')}:{frames[-1].lineno}]" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def _wrong_masks(masks: fp.Masks, column: str, given: Given, density: float, said: list[str]) -> str | None:
    wanted, allowed = round(density * masks.total), 0
    method = fp.get_method(column)
    if not method.exact:  # whole paths: off by less than one of them
        allowed = 2 * len(masks) - 1
    if abs(masks.kept - wanted) > allowed:
        return f"keeps {masks.kept:,} of {masks.total:,} weights where {wanted:,} were asked for"
    parameters = dict(given.model.named_parameters(remove_duplicate=False))
    for name, shape in masks.shapes.items():
        known = parameters.get(name, parameters.get(f"module.{name}", parameters.get(f"_orig_mod.{name}")))
        if known is not None and tuple(known.shape) != shape:
            return f"the mask of {name} has shape {shape}, the weight {tuple(known.shape)}"
    empty = [name for name in silent_blocks(masks, given.model) if not any(_speaks_of(name, words) for words in said)]
    if empty:
        return f"leaves no weight in {', '.join(empty[:4])} without a word"
    return None


def _speaks_of(name: str, warning: str) -> bool:
    """A warning names the layer or block, or says of how many it names the first few."""
    layer, _, block = name.partition("[")
    return layer in warning or (", ..." in warning and ("block" in warning or not block))


def silent_blocks(masks: fp.Masks, model: nn.Module) -> list[str]:
    """Layers, and q, k and v of fused projections, that keep nothing."""
    empty = list(masks.collapsed())
    for name, mask in masks.items():
        if mask.any():
            empty += [f"{name}[{part}]" for part, block in parts(model, name, mask).items() if not block.any()]
    return empty


def _wrong_analysis(report: Any) -> str | None:
    if report.kept != round(DENSITY * report.total):
        return f"counts {report.kept:,} kept weights of {report.total:,}"
    if report.macs < 0 or report.dense_macs <= 0:
        return f"counts {report.dense_macs:,} multiply-adds of the dense network"
    plain = vars(report)
    odd = [name for name, value in plain.items() if isinstance(value, float) and math.isnan(value)]
    if odd:
        return f"{odd[0]} is not a number"
    if report.log10_paths is None and not report.notes:
        return "gives no number of paths and does not say why"
    return None
