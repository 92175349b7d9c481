"""Names and numbers as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence

_JOINERS = "\u200c\u200d"  # invisible, but parts of Persian words and of emoji


def shown(text: str) -> str:
    """The text with an escape for each character that is no print: control, half, direction.

    None of them may reach a page: half characters are no UTF-8, a direction would turn round
    what stands beside it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else repr(c)[1:-1] for c in text)


def shortened(text: str, most: int = 60) -> str:
    """At most so many characters: the middle gives way to an ellipsis."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) :]}"


def share(value: float) -> str:
    """An accuracy or a loss: three places, or fewer figures where it is huge."""
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.2e}"


def interval(bounds: Sequence[float]) -> str:
    """A 95% interval."""
    low, high = bounds
    return f"{low:.3f}–{high:.3f}"


def percent(value: float) -> str:
    """A probability, never rounded to certainty."""
    if 0.995 <= value < 1:
        return f"{min(value, 0.9999):.2%}"
    return f"{value:.0%}" if value >= 0.01 or value == 0 else "<1%"


def seconds(value: float) -> str:
    """A time with the figures that matter: 0.042 s, 6.3 s, 207 s; what is shorter is no time."""
    if value >= 100:
        return f"{value:,.0f} s"
    return f"{value:.{3 if value >= 10 else 2}g} s" if value >= 0.01 else "<0.01 s"


def count(value: float) -> str:
    """A whole number with its thousands parted."""
    return f"{value:,.0f}"


def times(value: float) -> str:
    """A ratio: 6.3×, 84×."""
    return f"{value:,.0f}×" if value >= 10 else f"{value:.2g}×"
