"""The command that measures what methods leave of attention, rehearsed: its rows, its table, and that it goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import recall
from benchmarks.attention import choose
from benchmarks.attention_tasks import TOY, Recall, Text, text
from foreprune.core.net import isolated_randomness


def test_a_rehearsal_writes_a_row_for_every_run_and_makes_none_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv"
    words = ["--rehearse", "--out", str(out), "--densities", "0.1", "--methods", "dense", "erk", "snip"]
    assert recall.main([*words, "--seeds", "0", "--tasks", "recall"]) == 0
    first = recall.read(out)
    assert [row["method"] for row in first] == ["dense", "erk", "snip"]
    assert recall.main([*words, "--seeds", "0", "1"]) == 0
    rows = recall.read(out)
    assert rows[:3] == first
    assert len(rows) == len({tuple(row[key] for key in recall.FIELDS[:5]) for row in rows}) == 3 * 2 * 2
    snip = rows[2]
    assert (int(snip["kept"]), int(snip["total"])) == (round(0.1 * int(snip["total"])), int(snip["total"]))
    assert float(snip["queries"]) > 0
    said = capsys.readouterr()
    assert "| recall | 0.1 | snip | default | 2 |" in said.out
    assert "[1/3] recall dense default 1 0" in said.err


def test_a_method_that_refuses_a_network_is_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rehearse", "--out", str(tmp_path / "rows.csv"), "--densities", "0.1", "--tasks", "recall"]
    assert recall.main([*words, "--seeds", "0", "--methods", "synflow-dist", "erk"]) == 1
    assert "recall synflow-dist default 0.1 0: " in capsys.readouterr().err
    assert [row["method"] for row in recall.read(tmp_path / "rows.csv")] == ["erk"]


def test_shares_of_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert recall.main(["--rehearse", "--shares"]) == 0
    titles, _, *lines = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert titles[3:] == ["q", "k", "v", "out_proj", "linear1", "linear2", "head"]
    assert len(lines) == 2 * 2 * 3
    for line in lines:
        assert abs(sum(float(cell.removesuffix(" %")) for cell in line[3:]) - 100) < 1
    plain, sharp = (float(line[3].removesuffix(" %")) for line in lines[:2])
    assert 0 < plain < sharp


def test_an_answer_to_recall_is_the_value_beside_its_key() -> None:
    tokens, answers = Recall(TOY).draw(50)
    assert tokens.shape == (50, TOY.pairs + 1, 2)
    for sequence, answer in zip(tokens, answers, strict=True):
        (found,) = (value for key, value in sequence[:-1] if key == sequence[-1, 0])
        assert found == answer + TOY.keys


def test_the_text_held_out_is_not_trained_on() -> None:
    task = Text(TOY)
    inputs, targets = task.draw(20)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    end = len(text()) - len(text()) // 10
    tested = torch.cat([batch[0] for batch in task.tests()])
    assert torch.equal(tested[0], text()[end : end + TOY.context])
    assert torch.equal(tested[-1], text()[-TOY.context - 1 : -1])


@pytest.mark.parametrize(("variant", "least"), [("least=1", 1.0), ("least-magnitude=0.5", 0.5), ("every=0.5", 0.5)])
def test_a_floor_is_kept_and_counts_stay_exact(variant: str, least: float) -> None:
    with isolated_randomness(0):
        task = Recall(TOY)
        model, data = task.network(), task.scoring()
    erk, _ = choose(model, "erk", variant="default", density=0.1, seed=0, data=data)
    masks, _ = choose(model, "snip", variant=variant, density=0.1, seed=0, data=data)
    assert masks.kept == erk.kept
    counts = erk.block_counts()
    for name, (kept, _) in masks.block_counts().items():
        if name.endswith(("[q]", "[k]")):
            assert kept >= least * counts[name][0] - 1


def test_variants_differ_from_the_default_and_from_each_other() -> None:
    with isolated_randomness(0):
        task = Recall(TOY)
        model, data = task.network(), task.scoring()
    variants = (
        "default",
        "published",
        "least=1",
        "least-magnitude=1",
        "least-random=1",
        "every=1",
        "totals",
        "sharp=8",
    )
    found = [choose(model, "snip", variant=variant, density=0.1, seed=0, data=data)[0] for variant in variants]
    bits = [b"".join(masks[name].numpy().tobytes() for name in masks) for masks in found]
    assert len(set(bits)) == len(variants)


def test_an_unknown_variant_is_refused() -> None:
    with isolated_randomness(0):
        task = Recall(TOY)
        model, data = task.network(), task.scoring()
    with pytest.raises(ValueError, match="no variant 'most=1'"):
        choose(model, "snip", variant="most=1", density=0.1, seed=0, data=data)
