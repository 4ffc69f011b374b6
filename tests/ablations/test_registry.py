"""Ablations by name: what there is, values in words, one file for a new one."""

from __future__ import annotations

import subprocess
import sys

import pytest

import foreprune as fp
from foreprune.ablations import ablation, get_ablation, list_ablations, parse_ablation, registry


def test_those_there_are() -> None:
    names = [found.name for found in list_ablations()]
    assert names == ["shuffle", "reinit", "reinit-layer", "reinit-neuron", "invert", "widen"]
    assert all(get_ablation(name).name == name for name in names)
    assert all("arXiv" in found.paper and found.words for found in list_ablations())
    assert [found.name for found in list_ablations() if found.value] == ["widen"]
    assert get_ablation("widen").apply is fp.ablations.widen
    assert get_ablation("reinit-layer").apply.keywords == {"scheme": "layer"}


def test_they_are_listed_without_torch() -> None:
    program = (
        "import sys, foreprune.ablations as room\n"
        "assert room.parse_ablation('widen:0.5') == (room.get_ablation('widen'), 0.5)\n"
        "assert len(room.list_ablations()) == 6 and callable(room.shuffle)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_new_one_is_one_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @ablation("thin", changes="masks", words="thinned", paper="nobody", value="share", meaning="the share to drop")
    def thin(masks: fp.Masks, *, share: float, seed: int = 0) -> fp.Masks:
        return masks

    assert get_ablation("thin").value == "share"
    assert parse_ablation("thin:0.5") == (get_ablation("thin"), 0.5)
    with pytest.raises(ValueError, match=r"'thin:2': the value is the share to drop, from 0 to 1; write e.g. thin:0.5"):
        parse_ablation("thin:2")
    with pytest.raises(
        ValueError, match=r"'shuffle:1': only (thin|widen) and (thin|widen) takes a value; write shuffle"
    ):
        parse_ablation("shuffle:1")
    ablation("thin", changes="masks", words="thinned", paper="nobody")(thin)  # as after a reload
    with pytest.raises(
        ValueError, match=r"named 'shuffle' is registered already by .*shuffle\.shuffle; choose another"
    ):
        ablation("shuffle", changes="masks", words="", paper="")(thin)


def test_ablations_with_a_value() -> None:
    assert parse_ablation("shuffle") == (get_ablation("shuffle"), 1.0)
    assert parse_ablation("widen") == (get_ablation("widen"), 1.0)
    assert parse_ablation("widen:0.25") == (get_ablation("widen"), 0.25)
    assert parse_ablation("widen:0") == (get_ablation("widen"), 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shufle", "unknown ablation 'shufle'; did you mean 'shuffle'"),
        ("none", "unknown ablation 'none'"),
        ("xyz", "known: shuffle, reinit"),
        ("shuffle:0.5", "only widen takes a value"),
        ("widen:1.5", "from 0 to 1; write e.g. widen:0.5"),
        ("widen:nan", "from 0 to 1"),
        ("widen:half", "from 0 to 1"),
        ("widen:", "from 0 to 1"),
    ],
)
def test_bad_ablations_are_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_ablation(text)
