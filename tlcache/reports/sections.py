"""The pages: what each section says of runs, or of a benchmark, as plain values for templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlcache.evaluation.metrics import Evaluation, calibration_bins, evaluate
from tlcache.evaluation.roles import selection_note, split_role
from tlcache.features.projection import principal_components
from tlcache.reports.charts import curves, scatter, stacked, whiskers
from tlcache.reports.material import Material
from tlcache.reports.mistakes import Judged, class_rows, confusions, judged, spread, worst_first
from tlcache.reports.page import Room, rendered, shown
from tlcache.reports.pictures import confusion_picture, thumbnail
from tlcache.reports.records import RunRecord

_CELLS = 20  # classes up to which a confusion matrix is a table
_COLOURS = 7
_PARTS = "train", "val"
_SETTINGS = 10


def runs_page(materials: Sequence[Material], comparisons: Sequence[str], room: Room) -> bytes:
    """The page of runs, in their order, with sentences on their differences."""
    sections = [_section(i, material, room) for i, material in enumerate(materials, 1)]
    names = ", ".join(material.record.name for material in materials[:3])
    title = f"Report of {names}" if len(materials) <= 3 else f"Report of {len(materials)} runs"
    scale = whiskers(section["evaluation"].accuracy_ci95 for section in sections)
    values = {"title": title, "runs": sections, "comparisons": comparisons, "scale": scale}
    return rendered("runs.html", values)


def _section(number: int, material: Material, room: Room) -> dict[str, Any]:
    record, notes = material.record, list(material.notes)
    evaluation = record.evaluations[record.split]
    scored = material.scored
    images = judged(scored, record.model.classes) if scored else []
    now = evaluate(scored.logits, scored.labels, evaluation.classes) if scored else None
    if now and now.confusion != [list(row) for row in evaluation.confusion]:
        notes.append(
            "The images were scored anew, and differ from those that the run was judged on: "
            "mistakes, calibration and map are of now, all other numbers are the run's own."
        )
    mistakes = worst_first(images)
    root = material.root if room.pictures else None
    there = material.root and any((material.root / i.path).is_file() for i in images[:50])
    chose = "the setting" if "settings" in record.metrics else "the epoch"
    roles = {
        split: split_role(split, record.selected_on, record.fitted_on, chose)
        for split in record.evaluations
    }
    return {
        "id": f"run-{number}",
        "record": record,
        "evaluation": evaluation,
        "splits": [(split, of, roles[split]) for split, of in record.evaluations.items()],
        "role": roles[record.split],
        "honest": _honest(record, chose),
        "facts": _facts(record),
        "curves": _curves(record),
        "confusion": _confusion(evaluation),
        "classes": class_rows(evaluation, room.classes),
        "bins": calibration_bins(scored.logits, scored.labels) if scored else [],
        "mistakes": [(image, _picture(root, image)) for image in mistakes[: room.mistakes]],
        "wrong": len(mistakes),
        "images": len(images),
        "map": _map(material, images, room),
        "settings": _settings(record),
        "notes": notes,
        "gone": bool(images) and not there,
        "root": str(material.root or record.root),
        "pictures": room.pictures,
        "seconds": _seconds(record.metrics.get("seconds")),
    }


def _honest(record: RunRecord, chose: str) -> str:
    """What the reported accuracy may be taken for, in a sentence."""
    split = record.split
    if split in record.fitted_on:
        return f"The model was trained on {split}, so this is no score of it."
    if line := selection_note(record.evaluations, record.selected_on, chose):
        return f"{line[0].upper()}{line[1:]}.".replace("`", "")
    return f"{split} chose nothing: {record.selected_on} chose {chose}."


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """What was done with what, as pairs of a word and its value."""
    about, model, options = record.about, record.model, record.about["options"]
    images = ", ".join(f"{found.n:,} {split}" for split, found in record.evaluations.items())
    names = ", ".join(model.classes[:8]) + (", …" if len(model.classes) > 8 else "")
    transform = model.transform
    network = "all of it trained (finetuned)" if model.network is not None else "frozen"
    unknown = "none were kept" if model.network is not None else "not recorded"
    facts = [
        ("Command", f"tlcache {about.get('command', '')}"),
        ("Data", str(record.root)),
        ("Images", images),
        ("Classes", f"{len(model.classes):,}: {names}"),
        ("Trunk", f"{model.trunk}, {network}"),
        ("Weights", f"{model.weights} (SHA-256 of the trunk's tensors: {model.digest[:12]}…)"),
        (
            "Input",
            f"shorter side {transform.resize}, crop {transform.crop}, {transform.interpolation}",
        ),
        ("Numbers", f"{model.precision}, features kept as {model.dtype}"),
        ("Identity of the features", str(about.get("identity") or unknown)),
        ("Seed", str(options.get("seed", "not recorded"))),
        ("Selected on", record.selected_on),
        ("Trained on", " and ".join(record.fitted_on)),
    ]
    if record.history:
        best = f", the best is epoch {record.best_epoch}" if record.best_epoch else ""
        facts.append(("Epochs", f"{len(record.history)}{best}"))
    return [*facts, *_machine(about)]


def _machine(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = {word: about.get(word.lower()) for word in ("Versions", "Machine")}
    return [(word, _pairs(values)) for word, values in found.items() if isinstance(values, dict)]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _curves(record: RunRecord) -> list[Any]:
    if not record.history:
        return []
    epochs = [one.epoch for one in record.history]
    return [
        curves(
            title,
            epochs,
            {part: [getattr(e, f"{part}_{name}") for e in record.history] for part in _PARTS},
            record.best_epoch,
            most,
        )
        for title, name, most in (("Loss, nats", "loss", np.inf), ("Accuracy", "accuracy", 1.0))
    ]


def _confusion(evaluation: Evaluation) -> dict[str, Any]:
    """A table of few classes; of many, a picture and the most frequent mistakes."""
    if len(evaluation.classes) > _CELLS:
        picture = confusion_picture(evaluation.confusion)
        return {"table": None, "picture": picture, "pairs": confusions(evaluation, _CELLS)}
    rows = []
    for name, cells in zip(evaluation.classes, evaluation.confusion, strict=True):
        total = sum(cells)
        shares = [(cell, cell / total if total else 0.0) for cell in cells]
        rows.append((name, [(cell, share, round(10 * share)) for cell, share in shares], total))
    return {"table": rows, "picture": None, "pairs": []}


def _picture(root: Path | None, image: Judged) -> str | None:
    return thumbnail(root / image.path) if root is not None else None


def _map(material: Material, images: Sequence[Judged], room: Room) -> dict[str, Any] | None:
    """The map's points with what each says, by image."""
    root = material.root if room.pictures else None
    if not images or material.features is None or material.rows is None or len(material.rows) < 3:
        return None
    places, shares = principal_components(material.features, 2)
    classes = material.record.model.classes
    fewer = spread([images[row] for row in material.rows], room.points)
    points = []
    for at, place in zip(fewer, scatter(places[fewer], 640, 440, 16), strict=True):
        image = images[material.rows[at]]
        colour = classes.index(image.truth) if len(classes) <= _COLOURS else _COLOURS
        points.append((place, image, colour))
    told = [
        [shown(i.path), shown(i.truth), shown(i.prediction), i.probability, _picture(root, i)]
        for _, i, _ in points
    ]
    legend = list(enumerate(classes)) if len(classes) <= _COLOURS else []
    return {"points": points, "told": told, "shares": shares, "legend": legend}


def _settings(record: RunRecord) -> dict[str, Any] | None:
    """A sweep's best settings."""
    settings, ranked = record.metrics.get("settings"), record.metrics.get("ranked")
    if not isinstance(settings, list) or not isinstance(ranked, list):
        return None
    by_index = {
        s["index"]: s for s in settings if isinstance(s, dict) and isinstance(s.get("index"), int)
    }
    best = [by_index[i] for i in ranked[:_SETTINGS] if isinstance(i, int) and i in by_index]
    known = ("index", "accuracy", "accuracy_ci95", "loss", "n", "failed", "seeds", "accuracies")
    rows = [
        (s["index"], _pairs({name: s[name] for name in s if name not in known}), s)
        for s in best
        if [type(value) for value in (s.get("accuracy"), s.get("loss"))] == [float, float]
        and isinstance(bounds := s.get("accuracy_ci95"), list)
        and [type(bound) for bound in bounds] == [float, float]
    ]
    return {"count": len(settings), "rows": rows} if rows else None


def _seconds(found: Any) -> list[tuple[str, float]]:
    if not isinstance(found, dict):
        return []
    return [(str(stage), float(s)) for stage, s in found.items() if isinstance(s, int | float)]


def bench_page(measured: Mapping[str, Any], data: str, images: Mapping[str, int]) -> bytes:
    """The page of a benchmark, as ``Benchmark.describe`` gives it; ``images`` counts by split."""
    names = ("cached", "frozen", "finetune", "lp-ft")
    contenders = [measured[name] for name in names if name in measured]
    split = measured["judged_on"]
    facts = [
        ("Data", data),
        ("Images", ", ".join(f"{count:,} {name}" for name, count in images.items())),
        ("Trunk", f"{measured['trunk']}, weights {measured['weights']}"),
        ("Recipe", _pairs(measured["recipe"])),
        ("Judged on", f"{split}, {images[split]:,} images"),
        ("Epochs selected on", measured["selected_on"]),
        *_machine(measured),
    ]
    stages, bars = stacked(contenders)
    values = {
        "title": "Benchmark: cached features, frozen loop, finetuning",
        "sentences": [
            pair["sentence"] for key in ("comparison", "lp_ft_gain") if (pair := measured.get(key))
        ],
        "contenders": contenders,
        "stages": stages,
        "bars": bars,
        "scale": whiskers(one["accuracy_ci95"] for one in contenders),
        "measured": measured,
        "split": split,
        "role": split_role(split, measured["selected_on"]),
        "n": images[split],
        "facts": facts,
    }
    return rendered("bench.html", values)
