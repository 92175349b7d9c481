"""Text in figures: one line, cut by its width, in fonts that can draw it."""

from __future__ import annotations

import functools
import unicodedata

_CJK_FONTS = (
    "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo",
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Source Han Sans", "Hiragino Sans",
    "Microsoft YaHei", "WenQuanYi Zen Hei", "Arial Unicode MS",
)  # fmt: skip


def fit(text: str, points: float, size: float) -> str:
    """The text on one line, at most so wide: its middle gives way to an ellipsis."""
    shown = plain = drawable(text)
    kept = len(plain)
    while kept > 2 and text_width(shown, size) > points:
        kept = min(kept - 1, 200)
        shown = f"{plain[: kept - kept // 2].rstrip()}…{plain[-(kept // 2) :].lstrip()}"
    return shown


def drawable(text: str) -> str:
    """The text on one line, composed, with ``□`` for what no font here can draw."""
    # Composed: macOS spells file names decomposed, for which fonts have no glyph.
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c if c.isprintable() and ord(c) in _characters() else "□" for c in line)


def text_width(text: str, size: float) -> float:
    """The points that a text takes at a size."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=families(), size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


@functools.cache
def families() -> tuple[str, ...]:
    """The font families to draw with: DejaVu Sans, then those for CJK that are installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _CJK_FONTS if name in installed))


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(family=name))) for name in families()]
    return frozenset(code for font in fonts for code in font.get_charmap())
