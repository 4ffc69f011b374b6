"""One style per method everywhere, and colors that readers with a color vision deficiency can tell apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from foreprune.procedures import get_procedure, registry
from foreprune.report.colors import (
    COLORS,
    DASHES,
    DENSE_COLOR,
    MARKERS,
    ablation_styles,
    method_order,
    style_of,
    translucent,
)
from foreprune.report.figures import HEAT

# Machado, Oliveira & Fernandes 2009, table 1, severity 1.0; applied to linear RGB.
VISION = {
    "typical": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# Ottosson 2020, OKLab: linear RGB to cone responses, and their cube roots to lightness and two color axes.
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("vision", VISION)
def test_colors_stay_apart(vision: str) -> None:
    seen = [
        TO_LAB @ np.cbrt(TO_CONES @ np.clip(VISION[vision] @ linear(color), 0, 1)) for color in (*COLORS, DENSE_COLOR)
    ]
    closest = min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2))
    assert closest > 0.1


def test_colors_stand_out_on_white() -> None:
    for color in (*COLORS, DENSE_COLOR):
        luminance = linear(color) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) >= 3.0, color


def test_numbers_can_be_read_on_every_heat() -> None:
    """Ink on both ends of the scale; what lies between is lighter than the darker end."""
    ink = linear("#1d2430") @ [0.2126, 0.7152, 0.0722]
    for color in HEAT:
        assert (linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05) / (ink + 0.05) >= 4.5


def test_known_methods_have_styles_of_their_own() -> None:
    known = [
        *("random", "magnitude", "snip", "grasp", "synflow", "phew", "ntk-sap", "iterative-snip", "force"),
        *("synflow-l2", "synflow-dist", "synflow-l2-dist", "prospr", "px", "erk", "uniform"),
    ]
    assert len({(style_of(name).color, style_of(name).marker) for name in known}) == len(known)
    most_compared = ("random", "erk", "magnitude", "snip", "grasp", "synflow", "phew", "ntk-sap")
    assert len({style_of(name).color for name in most_compared}) == 8


def test_an_unknown_method_keeps_its_style() -> None:
    assert style_of("my-own-method") == style_of("my-own-method")
    assert style_of("my-own-method").color == "#173F81"
    assert style_of("my-own-method").marker in MARKERS


def test_variants_share_color_and_marker_and_differ_in_dash() -> None:
    styles = [style_of("synflow", variant=variant) for variant in range(4)]
    assert len({(style.color, style.marker) for style in styles}) == 1
    assert [style.dash for style in styles] == list(DASHES)


def test_the_dense_reference_is_near_black_dashed_and_without_markers() -> None:
    style = style_of("dense")
    assert (style.color, style.marker, style.dash) == (DENSE_COLOR, None, "dash")
    assert "dash" not in DASHES


def test_dense_comes_first_then_baselines_then_the_unknown_by_name() -> None:
    names = ["zeta", "synflow", "alpha", "dense", "random"]
    assert sorted(names, key=method_order) == ["dense", "random", "synflow", "alpha", "zeta"]


def test_methods_that_see_the_trained_network_are_upper_references() -> None:
    names = ["gmp", "zeta", "ltr", "synflow", "imp", "magnitude-after", "dense"]
    assert sorted(names, key=method_order) == ["dense", "synflow", "zeta", "magnitude-after", "ltr", "imp", "gmp"]
    styles = [style_of(name) for name in ("gmp", "imp", "ltr", "magnitude-after")]
    assert {style.color for style in styles} == {DENSE_COLOR}
    assert len({style.marker for style in styles}) == len(styles)
    assert {style.dash for style in styles} == {"longdash"}
    assert style_of("ltr", variant=1).dash == "solid"


def test_a_procedure_of_another_file_is_an_upper_reference_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert style_of("smallest-first").color != DENSE_COLOR
    monkeypatch.setitem(registry(), "smallest-first", get_procedure("gmp"))
    assert style_of("smallest-first").color == DENSE_COLOR
    assert style_of("smallest-first").dash == "longdash"
    assert sorted(["smallest-first", "gmp", "zeta"], key=method_order) == ["zeta", "gmp", "smallest-first"]


def test_ablations_have_styles_of_their_own() -> None:
    words = ["original", "shuffled", "reinitialized", "reinitialized per layer", "reinitialized per neuron", "inverted"]
    words += [f"widened 0.{at}" for at in range(1, 4)] + ["another"]
    styles = list(ablation_styles(words).values())
    assert len(set(styles)) == len(styles) == 10
    assert all(style.marker in MARKERS and style.color in COLORS and style.dash in DASHES for style in styles)


def test_translucent() -> None:
    assert translucent("#173F81", 0.13) == "rgba(23,63,129,0.13)"
