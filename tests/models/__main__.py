"""`python -m models` (`make matrix`): try every network with every method, and write docs/models.md.

A row that is in the record is not tried again, so an interrupted run goes on from where it was; `--again` forgets those
of the chosen libraries or networks first. The exit code is 1 if some cell is not right.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from models import page, record
from models.cell import Cell, columns, own_warnings, try_cell
from models.libraries import LIBRARIES, networks, versions
from models.network import Given, Network

import foreprune as fp

LIMIT = 60  # seconds for one cell


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    parser.add_argument("--library", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="NAME")
    parser.add_argument("--network", nargs="+", default=[], metavar="NAME", help="only these; default: all")
    parser.add_argument("--again", action="store_true", help="also those that are in the record")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows, order = record.load(), {}
    for library in LIBRARIES:
        try:
            order[library] = networks(library)
        except ImportError as error:
            print(f"{library} is left out: {error}", flush=True)
    todo = [
        network
        for library in chosen.library
        for network in order.get(library, {}).values()
        if not chosen.network or network.name in chosen.network
    ]
    if chosen.again:
        rows = {key: row for key, row in rows.items() if key not in {(one.library, one.name) for one in todo}}
    for network in todo:
        if (network.library, network.name) not in rows:
            done = _tried(network)
            rows[done.key] = done
            record.save(rows.values(), order=order)
    record.save(rows.values(), order=order)
    page.write(list(record.load().values()))
    wrong = {row.key: row.not_right() for row in record.load().values() if row.not_right()}
    print(f"{page.PAGE}: {len(rows)} networks, {sum(map(len, wrong.values()))} cells that are not right")
    return 1 if wrong else 0


def _tried(network: Network) -> record.Row:
    begun = time.perf_counter()
    with network.made() as given:
        expected = own_warnings(given)
        cells = {}
        for column in columns():
            with _limited(LIMIT):
                cells[column] = try_cell(given, column, expected=expected)
        key = (network.library, network.name)
        parameters, prunable = _counts(given)
    done = record.row(key, versions=versions(network.library), parameters=parameters, prunable=prunable, cells=cells)
    _print(done, cells, time.perf_counter() - begun)
    return done


def _counts(given: Given) -> tuple[int | None, int | None]:
    parameters = list(given.model.parameters())
    if any(isinstance(one, torch.nn.parameter.UninitializedParameter) for one in parameters):
        return None, None
    try:
        prunable = fp.prune(given.model, "random", density=1).total
    except Exception:  # the cells say why
        prunable = None
    return sum(one.numel() for one in parameters), prunable


def _print(done: record.Row, cells: dict[str, Cell], seconds: float) -> None:
    outcomes = list(done.outcomes.values())
    counted = ", ".join(f"{outcomes.count(one)} {one}" for one in dict.fromkeys(outcomes))
    print(f"{done.library}: {done.network}: {counted} ({seconds:.0f} s)", flush=True)
    for reason, found in done.reasons.items():
        if set(found) & set(done.not_right()):
            print(f"    {', '.join(found)}: {cells[found[0]].outcome}: {reason}", flush=True)


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


if __name__ == "__main__":
    sys.exit(main())
