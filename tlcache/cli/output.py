"""What a command prints: results on stdout, everything about the work on stderr."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tlcache.core.errors import one_line
from tlcache.core.progress import OpenTick, progress_bar
from tlcache.evaluation.roles import selection_note, split_role

# Half a character, of a file name that is no UTF-8; what some readers take for the end of a line.
_TO_ESCAPE = re.compile("[\ud800-\udfff\x85\u2028\u2029]")


class Output:
    """A command's voice.

    Args:
        as_json: stdout holds one JSON object and nothing else.
        quiet: Nothing but errors, and the JSON object where it was asked for.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self._as_json = as_json
        self._quiet = quiet

    def line(self, text: str = "") -> None:
        """A line of the result, for people."""
        if not (self._as_json or self._quiet):
            print(one_line(text, keep="\n\t"), flush=True)

    def note(self, text: str) -> None:
        """A line about the work."""
        if not self._quiet:
            print(one_line(text, keep="\n\t"), file=sys.stderr, flush=True)

    def note_random(self, weights: str) -> None:
        """A line on a network that has learned nothing, where that is what was asked for."""
        if weights == "random" or weights.startswith("random:"):
            self.note(f"weights: {weights}, of a network that has learned nothing")

    def result(self, values: dict[str, Any]) -> None:
        """The result, for programs."""
        if self._as_json:
            text = json.dumps(values, ensure_ascii=False, allow_nan=False)
            if _TO_ESCAPE.search(text):
                text = json.dumps(values, allow_nan=False)
            print(text, flush=True)

    @contextlib.contextmanager
    def progress(self, title: str, unit: str = "images") -> Iterator[OpenTick]:
        """A progress bar with the speed and the time left; only where a person can see it.

        It is told how many are done, and of how many, if that is known.
        """
        if self._quiet:
            yield lambda done, total: None
            return
        with progress_bar(title, unit) as tick:
            yield tick


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """A command's parameters as plain JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}


def tell_result(out: Output, result: dict[str, Any], folder: Path) -> None:
    """How a training run ended, for people."""
    seconds = result["seconds"]
    out.line(
        f"trained in {seconds['train']:.2f} s; best epoch {result['best_epoch']}, chosen on val"
    )
    tell_scores(out, result)
    note_selection(out, result["evaluation"])
    out.line(f"model, metrics and pictures: {folder}")


def tell_scores(out: Output, result: dict[str, Any], chose: str = "the epoch") -> None:
    """A run's accuracy on each split, with its interval and what the split was to the model."""
    labels = {
        split: f"{split} ({split_role(split, result['selected_on'], result['fitted_on'], chose)})"
        for split in result["evaluation"]
    }
    width = max(map(len, labels.values()))
    for split, judged in result["evaluation"].items():
        out.line(f"{labels[split]:>{width}}: {accuracy_text(judged)}, loss {judged['loss']:.3f}")


def accuracy_text(judged: Mapping[str, Any]) -> str:
    """An evaluation's accuracy with its interval and the number of images."""
    low, high = judged["accuracy_ci95"]
    return f"accuracy {judged['accuracy']:.3f} (95% {low:.3f}-{high:.3f}, n={judged['n']})"


def note_selection(out: Output, splits: Collection[str], chose: str = "the epoch") -> None:
    """One line where the split that is judged chose, and what to do; nothing where test is left."""
    if line := selection_note(splits, chose=chose):
        out.note(line)
