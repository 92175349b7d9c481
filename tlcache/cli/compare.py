"""``tlcache compare``: two models on the same images, and whether chance may be behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, accuracy_text

if TYPE_CHECKING:
    from tlcache.evaluation.comparison import Comparison
    from tlcache.evaluation.roles import Standing
    from tlcache.heads.model import Model

EXAMPLES = "tlcache compare runs/cached runs/finetuned hymenoptera_data --on test"


def run(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="A run folder, or its model.safetensors.", show_default=False
        ),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.", show_default=False)],
    data: o.Data,
    on: o.JudgedOn = "val",
    split: o.Split = None,
    seed: o.Seed = 0,
    weights_a: Annotated[
        str | None,
        typer.Option(
            help="Where the weights of A's trunk are now, if not where they were.",
            show_default=False,
        ),
    ] = None,
    weights_b: Annotated[
        str | None, typer.Option(help="The same of B's trunk.", show_default=False)
    ] = None,
    cache_dir: o.CacheDir = Path("cache"),
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    skip_unreadable: o.SkipUnreadable = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Set two models side by side on the same images of a split, whatever their trunks.

    McNemar's exact test says how likely so large a difference is by chance; the paired bootstrap
    says within what bounds the difference lies.
    """
    from tlcache.core.machine import Compute
    from tlcache.core.progress import Reporter
    from tlcache.evaluation.comparison import compare
    from tlcache.evaluation.roles import standing_of
    from tlcache.heads.model import load_model
    from tlcache.networks.checks import check_same_classes
    from tlcache.networks.scoring import JudgedSplit, aligned, score
    from tlcache.reports.run import read_run

    out = Output(as_json, quiet)
    paths, models = (a, b), (load_model(a), load_model(b))
    check_same_classes(*models)
    standings = [standing_of(read_run(path), data, on, split, seed) for path in paths]
    judged = JudgedSplit(data, on, o.fractions(split), seed, skip_unreadable)
    compute = Compute(device, workers=o.worker_count(workers))
    tell = Reporter(out.note, out.progress)
    scored = []
    for name, model, weights in zip("AB", models, (weights_a, weights_b), strict=True):
        out.note(f"{name}: {_kind(model)}")
        scored.append(score(model, judged, cache_dir, weights=weights, compute=compute, tell=tell))
    logits_b = aligned(*scored)
    compared = compare(scored[0].logits, logits_b, scored[0].labels)
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
    notes = {standing.note for standing in standings if standing.note}
    for note in sorted(notes):
        names = [n for n, x in zip("AB", standings, strict=True) if x.note == note]
        who = names[0] if len(names) == 1 else "each of A and B"
        out.note(f"{standings[0].on}: {who} {note}")
