"""How long something takes, in words."""

from __future__ import annotations

import pytest

from foreprune.core.durations import duration

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365.25 * 86_400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.0, "0 s"),
        (0.31, "0.3 s"),
        (4.21, "4.2 s"),
        (6.0, "6 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61.0, "1 min 01 s"),
        (185.0, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7620.0, "2 h 07 min"),
        (47 * HOUR, "47 h 00 min"),
        (2 * DAY, "2.0 days"),
        (12.4 * DAY, "12 days"),
        (400 * DAY, "400 days"),
        (3 * YEAR, "3 years"),
        (1091 * YEAR, "1,091 years"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
