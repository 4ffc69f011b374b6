"""Logs of runs: bounded, whole lines; and what an exit code means."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from foreprune.records import Experiment
from foreprune.runner.executor import Job
from foreprune.runner.logged import death_record, log_to, shorten, why


def test_a_log_keeps_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"line {number:04}\n" for number in range(200)))  # 10 bytes each
    shorten(path, 2000)
    assert len(path.read_text().splitlines()) == 200
    shorten(path, 1999)
    lines = path.read_text().splitlines()
    assert lines == ["[the beginning is left out]", *(f"line {number:04}" for number in range(101, 200))]
    shorten(tmp_path / "none", 10)
    path.write_text("x" * 100)
    shorten(path, 50)
    assert path.read_text() == "[the beginning is left out]\n" + "x" * 25


def test_a_log_stays_bounded_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with log_to(path, limit=10_000, every=0.01):
        end = time.monotonic() + 20
        number = 0
        while "left out" not in path.read_text() and time.monotonic() < end:
            for _ in range(100):
                sys.stdout.write(f"line {number}\n")
                number += 1
            time.sleep(0.002)
        sys.stderr.write("the last\n")
    lines = path.read_text().splitlines()
    assert lines[0] == "[the beginning is left out]"
    assert lines[-1] == "the last"
    assert path.stat().st_size <= 10_000


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_exit_codes_in_words() -> None:
    assert why(3) == "ended with exit code 3"
    assert why(None) == "ended"
    assert why(-11) == "was killed by SIGSEGV"
    assert why(-9) == "was killed by SIGKILL, perhaps because memory ran out: run fewer jobs at a time"
    assert why(-63) == "was killed by signal 63"


def test_the_record_of_a_death(tmp_path: Path) -> None:
    experiment = Experiment(data="digits", model="fc-8", method="snip")
    made = death_record(Job(experiment), "ended with exit code 3", out=tmp_path, environment={"a": 1})
    assert (made.status, made.attempts, made.error) == ("failed", 1, "the process ended with exit code 3")
    assert made.environment["a"] == 1
    assert "ended" in made.environment
    assert not list(tmp_path.iterdir())
