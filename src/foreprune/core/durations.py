"""How long something takes, in words."""

from __future__ import annotations

_HOUR, _DAY, _YEAR = 3600.0, 86_400.0, 365.25 * 86_400


def duration(seconds: float | None) -> str:
    """ "4.2 s", "40 s", "3 min 05 s", "2 h 07 min", "12 days", "15 years"; "?" for None."""
    if seconds is None:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // 60} min {whole % 60:02} s"
    if seconds < 2 * _DAY:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60:02} min"
    if seconds < 2 * _YEAR:
        return f"{seconds / _DAY:,.{int(seconds < 10 * _DAY)}f} days"
    return f"{seconds / _YEAR:,.0f} years"
