"""``tlcache predict``: class and probability of each image, in the order given, as they come."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output
from tlcache.core.errors import one_line
from tlcache.data.image_paths import listed_paths, paths_on_stdin

if TYPE_CHECKING:
    from tlcache.networks.scoring import ScoredImage

EXAMPLES = "find photos -name '*.jpg' | tlcache predict runs/ants - --json"


class Prediction(NamedTuple):
    """What is printed of one image: its classes by falling probability, or why it has none."""

    path: str
    classes: list[tuple[str, float]]
    reason: str


def run(
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
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many classes, by falling probability.",
            show_default="1, and every class with --json",
        ),
    ] = None,
    cached: Annotated[
        bool,
        typer.Option(
            "--cache", help="Take features from the cache, and put new ones there (heads only)."
        ),
    ] = False,
    null: Annotated[
        bool,
        typer.Option("--null", "-0", help="Paths on stdin end with NUL, as find -print0 has it."),
    ] = False,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    device: o.Device = "auto",
    engine: o.Engine = "auto",
    workers: o.Workers = "auto",
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Exit with 0 although images cannot be read; they are named all the same.",
        ),
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV with a header, and nothing else.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object an image, each on a line of its own."),
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Say what is on each image, and how sure the model is.

    Images that cannot be read are reported in their place, and make the exit code 1.
    """
    from tlcache.core.machine import Compute
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import feature_store_of, load_network, score_images

    out = Output(as_json or as_csv, quiet)
    _check_format(as_json, as_csv)
    loaded = load_model(model)
    out.note_random(loaded.weights)
    store = feature_store_of(loaded, cache_dir, out.note) if cached else None
    network = functools.cache(lambda: load_network(loaded, weights, cache_dir / "weights"))
    if store is None:
        network()  # wrong weights are an error before anything is printed
    paths, count = _paths(images, null)
    scored = score_images(
        loaded,
        network,
        paths,
        compute=Compute(device, engine, o.worker_count(workers)),
        images=count,
        store=store,
    )
    shown = min(top or (len(loaded.classes) if as_json else 1), len(loaded.classes))
    tell = _teller(out, as_json, as_csv, shown)
    unreadable = done = 0
    with contextlib.closing(scored), _progress(out) as tick:
        for done, image in enumerate(scored, 1):
            unreadable += bool(image.reason)
            tell(_prediction(image, loaded.classes, shown))
            tick(done, count)
    if unreadable:
        out.note(f"{unreadable} of {done} images cannot be read")
        raise typer.Exit(0 if skip_unreadable else 1)


def _check_format(as_json: bool, as_csv: bool) -> None:
    from tlcache.core.errors import OptionError

    if as_json and as_csv:
        raise OptionError(
            "--json --csv", expected="one of them", found="both", remedy="leave one out"
        )


def _paths(images: list[str], null: bool) -> tuple[Iterator[str | None], int]:
    """The paths that the arguments name; and how many there are, 0 where stdin will tell."""
    given = [None if argument == "-" else listed_paths(argument) for argument in images]
    count = 0 if None in given else sum(len(part) for part in given if part is not None)

    def paths() -> Iterator[str | None]:
        for part in given:
            yield from paths_on_stdin(null) if part is None else part

    return paths(), count


@contextlib.contextmanager
def _progress(out: Output) -> Iterator[Callable[[int, int | None], None]]:
    """A bar, unless the predictions themselves are what a person sees."""
    if sys.stdout.isatty():
        yield lambda done, total: None
        return
    with out.progress("predicting") as tick:
        yield lambda done, total: tick(done, total or None)


def _prediction(image: ScoredImage, classes: Iterable[str], shown: int) -> Prediction:
    from tlcache.evaluation.metrics import softmax

    if image.logits is None:
        return Prediction(str(image.path), [], image.reason)
    shares = softmax(image.logits[None])[0].tolist()
    falling = sorted(zip(classes, shares, strict=True), key=lambda pair: -pair[1])
    return Prediction(str(image.path), falling[:shown], "")


def _teller(out: Output, as_json: bool, as_csv: bool, shown: int) -> Callable[[Prediction], None]:
    """What prints one prediction in the format that is wanted."""
    if as_json:
        return lambda prediction: out.result(_values(prediction))
    if as_csv:
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
        numbers = [f"_{n}" if n > 1 else "" for n in range(1, shown + 1)]
        columns = [f"{name}{n}" for n in numbers for name in ("class", "probability")]
        _print_csv(["path", *columns, "reason"])
        return lambda prediction: _print_csv(_row(prediction, shown))
    return lambda prediction: out.line("\t".join(_fields(prediction)))


def _values(prediction: Prediction) -> dict[str, Any]:
    path, classes, reason = prediction
    if reason:
        return {"path": path, "reason": reason}
    return {"path": path, "class": classes[0][0], "probabilities": dict(classes)}


def _row(prediction: Prediction, shown: int) -> list[str]:
    cells = [str(cell) for pair in prediction.classes for cell in pair]
    return [prediction.path, *(cells or [""] * 2 * shown), prediction.reason]


def _fields(prediction: Prediction) -> list[str]:
    cells = [cell for name, share in prediction.classes for cell in (name, f"{share:.4f}")]
    texts = [prediction.path, *(cells or ["cannot be read", prediction.reason])]
    # A tab or a line's end in a name must not look like another column or line.
    return [one_line(text) for text in texts]


def _print_csv(cells: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    print(text.getvalue(), end="", flush=True)
