"""What ``tlcache sweep`` shows: the best settings in a table, and all of them as heat maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cli.output import Output, tell_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tlcache.studies.settings import Setting
    from tlcache.studies.sweep import Candidate, Sweep

SHOWN = 10


def tell_sweep(out: Output, swept: Sweep, result: dict[str, Any], folder: Path) -> None:
    """The best settings, what became of the one that was chosen, and where it is."""
    table = [swept.candidates[i] for i in swept.ranked[:SHOWN]]
    words = [_setting(candidate.setting) for candidate in table]
    width = max(map(len, words))
    heads = sum(len(candidate.seeds) for candidate in swept.candidates)
    out.line(
        f"{len(swept.candidates)} settings, {heads} heads in {swept.seconds['sweep']:.2f} s; "
        f"the best by {swept.selected_on}, which chose among them:"
    )
    out.line(f"{'':4}  {'':{width}}  accuracy (95%)         loss")
    for candidate, text in zip(table, words, strict=True):
        out.line(f"{candidate.index:4}  {text:{width}}  {_numbers(candidate)}")
    if failed := sum(candidate.failed for candidate in swept.candidates):
        out.note(f"failed to train, by a loss without a finite least: {failed} of the settings")
    again = "fitted again to" if len(swept.fitted_on) > 1 or "cross" in swept.selected_on else "of"
    out.line(f"kept: setting {swept.best.index}, {again} {' and '.join(swept.fitted_on)}")
    tell_scores(out, result, f"among {len(swept.candidates)}")
    _note_honesty(out, swept, result)
    out.line(f"model, metrics and pictures: {folder}")


def _note_honesty(out: Output, swept: Sweep, result: dict[str, Any]) -> None:
    if "test" in result["evaluation"]:
        return
    if swept.selected_on == "val":
        out.note(
            "no test split: val chose, so its accuracy flatters; --folds 5 lets train choose and "
            "leaves val to score, and `tlcache crossval` or --split 0.7,0.15,0.15 give other scores"
        )
    elif "val" not in result["evaluation"]:
        out.note(
            "no test split: the folds chose, so their accuracy flatters, and nothing is left to "
            "score the head; a test/ folder or --split 0.7,0.15,0.15 would be"
        )


def _setting(setting: Setting) -> str:
    """A setting in a few words."""
    values = setting.describe()
    head = f"{values.pop('solver'):5}  {values.pop('features'):12}"
    words = {"c": "C", "lr": "lr", "weight_decay": "decay", "schedule": "", "batch_size": "batch"}
    rest = [
        f"{words[name]} {value:.3g}".strip()
        if isinstance(value, float)
        else f"{words[name]} {value}"
        for name, value in values.items()
    ]
    return f"{head}  {'  '.join(text.strip() for text in rest)}"


def _numbers(candidate: Candidate) -> str:
    if candidate.failed:
        return "failed to train"
    low, high = candidate.accuracy_ci95
    return f"{candidate.accuracy:.3f} ({low:.3f}-{high:.3f})  {candidate.loss:7.4f}"


def heat_map_of(swept: Sweep) -> Figure:
    """Learning rate by weight decay for SGD, C by features for L-BFGS."""
    from tlcache.figures.heatmap import HeatMap, heat_maps

    maps = []
    for title, across, down, names in (
        ("SGD", "learning rate", "weight decay", ("lr", "weight_decay")),
        ("L-BFGS", "C", "features", ("c", "features")),
    ):
        mine = [x for x in swept.candidates if (x.setting.recipe is not None) == (title == "SGD")]
        if mine:
            values = [candidate.setting.describe() for candidate in mine]
            columns, rows = ([value[name] for value in values] for name in names)
            accuracies = [math.nan if x.failed else x.accuracy for x in mine]
            chosen = mine.index(swept.best) if swept.best in mine else None
            maps.append(HeatMap(title, across, down, columns, rows, accuracies, chosen))
    return heat_maps(maps, f"Best accuracy over all other values ({swept.selected_on} chose)")
