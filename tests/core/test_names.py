from __future__ import annotations

from foreprune.core.names import unknown


def test_near_names_are_offered_and_all_are_listed() -> None:
    error = unknown("network", "resnet-21", {"resnet-20": 1, "resnet-110": 2, "vgg": 3})
    assert isinstance(error, ValueError)
    assert str(error) == (
        "unknown network 'resnet-21'; did you mean 'resnet-20' or 'resnet-110'? known: resnet-20, resnet-110, vgg"
    )
    assert str(unknown("figure", "fig-1", ["fig-2"], see="`papers` lists them")) == (
        "unknown figure 'fig-1'; did you mean 'fig-2'? `papers` lists them"
    )
    assert str(unknown("recipe", 3, ["a"])) == "unknown recipe 3; known: a"
