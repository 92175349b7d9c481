"""``sweep``: heads of many settings from one cache, the best one chosen and kept.

After the command, what it shows: the best settings in a table, and all of them as heat maps.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tlcache.cli import options as o
from tlcache.cli.output import Output, counts_of, score_text, tell_embedding, tell_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tlcache.studies.settings import Setting
    from tlcache.studies.sweep import Candidate, Sweep

_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What the heads are trained with: lists, of which every combination is tried."""

    lr: Annotated[
        str, o.in_training(help="Learning rates of SGD: values with commas between them.")
    ] = "1e-4,1e-3,1e-2"
    weight_decay: Annotated[str, o.in_training(help="L2 penalties of SGD.")] = "0,1e-4,1e-2"
    schedule: Annotated[
        str,
        o.in_training(
            help="Of the learning rate: step, constant or cosine.",
            autocompletion=o.some_of("step", "constant", "cosine"),
        ),
    ] = "step"
    batch_size: Annotated[str, o.in_training(help="Images a step of SGD.")] = "4"
    features: Annotated[
        str,
        o.in_training(
            help="raw: as they are; standardised: by the training rows' mean and deviation; "
            "l2: each row scaled to length 1.",
            autocompletion=o.some_of("raw", "standardised", "l2"),
        ),
    ] = "raw,standardised"
    solver: Annotated[
        str,
        o.in_training(
            help="sgd, as in `train`; lbfgs: logistic regression.",
            autocompletion=o.some_of("sgd", "lbfgs"),
        ),
    ] = "sgd,lbfgs"
    c: Annotated[
        str, o.in_training("--c", help="Of lbfgs: scikit-learn's C, the inverse of its penalty.")
    ] = "1e-4,1e-3,1e-2,0.1,1,10,100"
    draw: Annotated[
        int | None,
        o.in_training(
            help="Instead of every combination, so many at random; --lr, --weight-decay and --c "
            "are bounds then.",
            show_default=False,
        ),
    ] = None
    seeds: Annotated[int, o.in_training(help="Heads of SGD a setting; their mean counts.")] = 1
    folds: Annotated[
        int,
        o.in_training(
            help="Choose by cross-validation on train in so many folds, which leaves val to score. "
            "0: val chooses, where there is one."
        ),
    ] = 0
    epochs: o.Epochs = 25
    momentum: o.Momentum = 0.9
    step_size: o.StepSize = 7
    gamma: o.Gamma = 0.1

    def listed(self, seed: int) -> list[Setting]:
        """Every setting to try.

        Raises:
            OptionError: If a list holds what makes no sense.
        """
        from tlcache.heads.recipe import Recipe
        from tlcache.studies.settings import Space, drawn, grid

        shared = "epochs", "momentum", "step_size", "gamma"
        base = Recipe(**{name: getattr(self, name) for name in shared}, seed=seed)
        space = Space(
            base=base,
            lr=o.numbers("--lr", self.lr),
            weight_decay=o.numbers("--weight-decay", self.weight_decay),
            schedule=o.words(self.schedule),
            batch_size=o.whole_numbers("--batch-size", self.batch_size, "write it like 4,16"),
            features=o.words(self.features),
            solver=o.words(self.solver),
            c=o.numbers("--c", self.c),
            seeds=self.seeds,
        )
        return grid(space) if self.draw is None else drawn(space, self.draw)

    def how(self, seed: int) -> dict[str, Any]:
        """How the settings are tried, as the library takes it."""
        return {"seeds": self.seeds, "folds": self.folds, "fold_seed": seed}


@o.command("tlcache sweep hymenoptera_data --lr 1e-4,1e-3,1e-2 --weight-decay 0,1e-2 --folds 5")
def sweep(
    source: o.Source,
    settings: _Settings,
    features: o.ViewedFeatures,
    kept: o.RunOptions,
    out: Output,
    figure: Annotated[
        Path | None, o.in_output(help="A PNG of the heat map.", show_default="in the run's folder")
    ] = None,
) -> None:
    """Train heads of many settings side by side, choose one, and score it on what did not choose.

    val chooses, and test scores the setting once it has been trained on train and val; with --folds
    or without val, cross-validation on train chooses. Heads are those of the last epoch.
    """
    options = o.plain(locals())
    from tlcache.features.embed import embedding_of
    from tlcache.reports.run import Run, finish_run
    from tlcache.studies.sweep import check_dataset, scored_splits, sweep_heads

    listed, folds = settings.listed(source.seed), settings.folds
    embedding = embedding_of(
        source.named(unsplit=True),
        features.spec(),
        out.reporter,
        check=lambda dataset: check_dataset(dataset, folds),
    )
    dataset = embedding.snapshot.dataset
    check_dataset(dataset, folds)  # of a snapshot, which is not checked above
    tell_embedding(out, embedding)
    with kept.opened("sweep", dataset.name, out.note) as folder:
        started = time.perf_counter()
        read = embedding.read()
        seconds = {"embed": embedding.seconds, "read": time.perf_counter() - started}
        with out.progress("sweeping", "epochs") as tick:
            swept = sweep_heads(read, listed, **settings.how(source.seed), progress=tick)
        scored = scored_splits(read, swept)
        run = Run(
            command="sweep",
            options=options,
            dataset=dataset,
            model=embedding.model(swept.head),
            history=swept.history,
            best_epoch=None,
            scored=scored,
            seconds=seconds | swept.seconds,
            selected_on=swept.selected_on,
            fitted_on=swept.fitted_on,
            pictured=([name for name in scored if name not in swept.fitted_on] or ["train"])[-1],
            identity=embedding.stores[0].identity.key,
            more=swept.describe(),
            source=source.named(unsplit=True),
        )
        result = finish_run(folder, run, figures=not kept.no_figures)
    _draw(swept, [figure] if kept.no_figures else [figure, folder / "heatmap.png"])
    _tell(out, swept, result, folder)
    out.result(counts_of(embedding) | result)


def _draw(swept: Sweep, wanted: list[Path | None]) -> None:
    from tlcache.figures.style import save_png

    if paths := [path for path in wanted if path]:
        picture = _heat_map(swept)
        for path in paths:
            save_png(picture, path)


def _tell(out: Output, swept: Sweep, result: dict[str, Any], folder: Path) -> None:
    """The best settings, what became of the one that was chosen, and where it is."""
    table = [swept.candidates[i] for i in swept.ranked[:_SHOWN]]
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
    for name, value in values.items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        head += "  " + f"{words[name]} {text}".strip()
    return head


def _numbers(candidate: Candidate) -> str:
    if candidate.failed:
        return "failed to train"
    scored = score_text(candidate.accuracy, candidate.accuracy_ci95)
    return f"{scored}  {candidate.loss:7.4f}"


def _heat_map(swept: Sweep) -> Figure:
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
