"""What models say of images: one judged on a split, two side by side, and each image's classes."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, accuracy_text
from tlcache.core.errors import OptionError, one_line
from tlcache.core.progress import no_tick

if TYPE_CHECKING:
    from tlcache.evaluation.comparison import Comparison
    from tlcache.evaluation.roles import Standing
    from tlcache.heads.model import Model
    from tlcache.networks.scoring import ScoredImage


@o.command("tlcache evaluate runs/ants hymenoptera_data --on val")
def evaluate(
    model: o.ModelFile,
    source: o.JudgedSource,
    how: o.JudgeOptions,
    out: Output,
    on: o.JudgedOn = "val",
) -> None:
    """Judge a model on a split: accuracy with its interval, loss, F1, calibration, confusion."""
    from tlcache.evaluation.metrics import evaluate
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import score
    from tlcache.reports.run import origin_of

    loaded, origin, compute = load_model(model), origin_of(model), how.compute()
    split, weights = source.judged(origin, on, how.skip_unreadable), how.weights
    weights = origin.weights(loaded, weights)
    scored = score(
        loaded, split, how.cache_dir, weights=weights, compute=compute, tell=out.reporter
    )
    evaluation = evaluate(scored.logits, scored.labels, loaded.classes)
    standing = origin.standing(split.source, on)
    out.line(f"{standing.label}: {evaluation.summary()}")
    for name, row in evaluation.per_class.items():
        out.line(
            f"  {name}: precision {row['precision']:.3f}, recall {row['recall']:.3f}, "
            f"F1 {row['f1']:.3f}, {row['support']:.0f} images"
        )
    if standing.note:
        out.note(f"{on}: this model {standing.note}")
    out.result(evaluation.to_dict() | standing.describe())


@o.command("tlcache compare runs/cached runs/finetuned hymenoptera_data --on test")
def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="A run folder, or its model.safetensors.", show_default=False
        ),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.", show_default=False)],
    source: o.JudgedSource,
    how: o.ComputeOptions,
    out: Output,
    on: o.JudgedOn = "val",
    weights_a: Annotated[
        str | None,
        o.in_features(
            help="Where the weights of A's trunk are now, if not where they were.",
            show_default=False,
        ),
    ] = None,
    weights_b: Annotated[
        str | None, o.in_features(help="The same of B's trunk.", show_default=False)
    ] = None,
    cache_dir: o.CacheDir = Path("cache"),
    skip_unreadable: o.SkipUnreadable = False,
) -> None:
    """Set two models side by side on the same images of a split, whatever their trunks.

    McNemar's exact test says how likely so large a difference is by chance; the paired bootstrap
    says within what bounds the difference lies.
    """
    from tlcache.evaluation.comparison import compare
    from tlcache.heads.model import load_model
    from tlcache.networks.checks import check_same_classes
    from tlcache.networks.scoring import aligned, score
    from tlcache.reports.run import origin_of

    paths, models, origins = (a, b), (load_model(a), load_model(b)), (origin_of(a), origin_of(b))
    check_same_classes(*models)
    skip = skip_unreadable or any(origin.skips_unreadable for origin in origins)
    split = source.judged(next((x for x in origins if x.source), origins[0]), on, skip)
    standings = [origin.standing(split.source, on) for origin in origins]
    compute, scored = how.compute(), []
    asked = weights_a, weights_b
    for name, model, origin, weights in zip("AB", models, origins, asked, strict=True):
        out.note(f"{name}: {_kind(model)}")
        weights = origin.weights(model, weights)
        found = score(model, split, cache_dir, weights=weights, compute=compute, tell=out.reporter)
        scored.append(found)
    compared = compare(scored[0].logits, aligned(*scored), scored[0].labels)
    right = compared.both + compared.only_a, compared.both + compared.only_b
    about = [_describe(paths[i], models[i], standings[i], right[i], compared.n) for i in range(2)]
    _tell(out, compared, about, standings)
    paired = compared.to_dict() | {"sentence": compared.sentence()}
    out.result({"on": on, "a": about[0], "b": about[1], "comparison": paired})


def _kind(model: Model) -> str:
    precision = "" if model.precision == "fp32" else f" in {model.precision}"
    if model.network is None:
        return f"a head on {model.trunk}{precision}"
    return f"{model.trunk}, finetuned"


def _describe(path: Path, model: Model, standing: Standing, right: int, n: int) -> dict[str, Any]:
    from tlcache.evaluation.metrics import wilson_interval

    return {
        "model": str(path),
        "trunk": model.trunk,
        "weights": model.weights,
        "precision": model.precision,
        "finetuned": model.network is not None,
        "accuracy": right / n,
        "accuracy_ci95": list(wilson_interval(right, n)),
        "n": n,
        "selected_on": standing.selected_on,
    }


def _tell(
    out: Output, compared: Comparison, about: list[dict[str, Any]], standings: list[Standing]
) -> None:
    for name, one, standing in zip("AB", about, standings, strict=True):
        out.line(f"{name}: {one['model']}: {standing.label}: {accuracy_text(one)}")
    cells = [compared.both, compared.only_a, compared.only_b, compared.neither]
    words = [f"{cell:,}" for cell in cells]
    width = max(7, *map(len, words))
    out.line(f"{'':9}{'B right':>{width}}  {'B wrong':>{width}}")
    out.line(f"{'A right':9}{words[0]:>{width}}  {words[1]:>{width}}")
    out.line(f"{'A wrong':9}{words[2]:>{width}}  {words[3]:>{width}}")
    out.line(compared.sentence())
    for note in sorted({standing.note for standing in standings if standing.note}):
        names = [n for n, x in zip("AB", standings, strict=True) if x.note == note]
        who = names[0] if len(names) == 1 else "each of A and B"
        out.note(f"{standings[0].on}: {who} {note}")


@dataclasses.dataclass(frozen=True)
class PredictOptions(o.JudgeOptions):
    """How images are found and go through the network."""

    engine: o.Engine = "auto"
    cached: Annotated[
        bool,
        o.in_features(
            "--cache", help="Take features from the cache, and put new ones there (heads only)."
        ),
    ] = False
    null: Annotated[
        bool,
        o.in_data("--null", "-0", help="Paths on stdin end with NUL, as find -print0 has it."),
    ] = False
    skip_unreadable: Annotated[
        bool,
        o.in_data(
            "--skip-unreadable",
            help="Exit with 0 although images cannot be read; they are named all the same.",
        ),
    ] = False


@dataclasses.dataclass(frozen=True)
class Predictions(Output):
    """The voice of a command that says something of each image, in one of three formats."""

    as_csv: Annotated[
        bool, o.in_output("--csv", help="Print CSV with a header, and nothing else.")
    ] = False
    as_json: Annotated[
        bool,
        o.in_output("--json", help="Print one JSON object an image, each on a line of its own."),
    ] = False

    def check(self) -> None:
        """Refuse two formats at once.

        Raises:
            OptionError: If both are asked for.
        """
        if self.as_json and self.as_csv:
            raise OptionError(
                "--json --csv", expected="one of them", found="both", remedy="leave one out"
            )

    def begin(self, shown: int) -> None:
        """Print what stands above the images, of each of which so many classes are told."""
        if self.as_csv:
            sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
            numbers = [f"_{n}" if n > 1 else "" for n in range(1, shown + 1)]
            columns = [f"{name}{n}" for n in numbers for name in ("class", "probability")]
            _print_csv(["path", *columns, "reason"])

    def tell(self, image: ScoredImage, classes: Sequence[str], shown: int) -> None:
        """Print the image's likeliest classes, or why it has none."""
        ranked, path = image.ranked(classes)[:shown], str(image.path)
        if self.as_csv:
            cells = [str(cell) for pair in ranked for cell in pair] or [""] * 2 * shown
            _print_csv([path, *cells, image.reason])
        elif not ranked:
            self.result({"path": path, "reason": image.reason})
            self._columns([path, "cannot be read", image.reason])
        else:
            self.result({"path": path, "class": ranked[0][0], "probabilities": dict(ranked)})
            self._columns([path, *(c for name, p in ranked for c in (name, f"{p:.4f}"))])

    def _columns(self, cells: list[str]) -> None:
        # A tab or a line's end in a name must not look like another column or line.
        self.line("\t".join(map(one_line, cells)))


def _print_csv(cells: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    print(text.getvalue(), end="", flush=True)


@o.command("find photos -name '*.jpg' | tlcache predict runs/ants - --json")
def predict(
    model: o.ModelFile,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE…",
            help="Image files, folders of them, patterns in quotes ('photos/**/*.jpg'), or - for "
            "paths on stdin, one a line: their predictions come as the paths come.",
            show_default=False,
        ),
    ],
    how: PredictOptions,
    out: Predictions,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many classes, by falling probability.",
            show_default="1, and every class with --json",
        ),
    ] = None,
) -> None:
    """Say what is on each image, and how sure the model is.

    Images that cannot be read, and arguments that name none, are reported in their place, and make
    the exit code 1.
    """
    from tlcache.data.image_paths import named_paths
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import feature_store_of, load_network, score_images
    from tlcache.reports.run import origin_of

    out.check()
    loaded, compute = load_model(model), how.compute()
    weights, memo = origin_of(model).weights(loaded, how.weights), how.cache_dir / "weights"
    out.note_random(loaded.weights)
    store = feature_store_of(loaded, how.cache_dir, out.note) if how.cached else None
    network = functools.cache(lambda: load_network(loaded, weights, memo))
    if store is None:
        network()  # wrong weights are an error before anything is printed
    named = named_paths(images, how.null)
    scored = score_images(
        loaded, network, named.paths, compute=compute, images=named.total, store=store
    )
    shown = min(top or (len(loaded.classes) if out.as_json else 1), len(loaded.classes))
    out.begin(shown)
    # A bar, unless the predictions themselves are what a person sees.
    bar = contextlib.nullcontext(no_tick) if sys.stdout.isatty() else out.progress("predicting")
    unreadable = done = 0
    with contextlib.closing(scored), bar as tick:
        for done, image in enumerate(scored, 1):
            if image.reason:
                unreadable += 1
                reason = named.reasons.get(str(image.path), image.reason)
                image = dataclasses.replace(image, reason=reason)
            out.tell(image, loaded.classes, shown)
            tick(done, named.total or None)
    if unreadable:
        out.note(f"{unreadable} of {done} images cannot be read")
        raise typer.Exit(0 if how.skip_unreadable else 1)
