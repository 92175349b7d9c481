"""Images to features: tlcache's pass against the tutorial's loop and its peers, in one run.

Rounds alternate, so that whatever else the machine does, it does to all. On a CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from bench_contenders import WORKERS, Contender, Passed, ours, tutorial
from bench_parts import identical_inputs, preprocessors, pure_forward, tutorial_epoch
from bench_peers import peers
from bench_rounds import (
    BLUE,
    GREY,
    SKY,
    JsonFile,
    alternated,
    bars,
    keep,
    largest_difference,
    new_figure,
    note,
    print_table,
    ratios,
    run,
    say,
    shown,
    smallest_cosine,
    spread,
    tidy,
)

import tlcache
from tlcache.core.machine import describe_machine
from tlcache.data.folders import ImageDataset, subset
from tlcache.trunks.load import Trunk

BASE = "tutorial"
OURS = "tlcache "
FORWARD = "forward of "

Values = dict[str, Any]


def main(
    data: Annotated[Path, typer.Argument(help="A folder with train/ and val/.")],
    trunk: Annotated[str, typer.Option(help="The network.")] = "resnet18",
    weights: Annotated[str, typer.Option(help="imagenet, a file, or random.")] = "random",
    rounds: Annotated[int, typer.Option(min=1, help="Of everything.")] = 3,
    images: Annotated[int, typer.Option(min=0, help="How many; 0: all.")] = 200,
    forward: Annotated[int, typer.Option(min=1, help="Images of noise, in a round.")] = 128,
    without: Annotated[
        list[str] | None, typer.Option(help="A contender to leave out; several times for several.")
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Estimate the frozen tutorial run, too.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Of the frozen tutorial run.")] = 25,
    json_file: JsonFile = None,
    figure: Annotated[Path | None, typer.Option(help="A PNG of the ratios.")] = None,
) -> None:
    """Time every contender on the same images, and compare what it makes of them."""
    dataset, loaded = _part(tlcache.scan(data), images), tlcache.load_trunk(trunk, weights)
    contenders, left_out = _contenders(loaded, _part(dataset, 8), without or [])
    say(f"{rounds} rounds of {len(contenders)} contenders on {len(dataset)} images")
    passed, speeds = _measured(loaded, dataset, contenders, rounds, forward)
    values = {
        "trunk": trunk,
        "weights": weights,
        "images": len(dataset),
        **describe_machine(trunk),
        "contenders": _compared(passed),
        "left_out": left_out,
        "forward": _forward(passed, speeds),
        "preprocess": _preprocess(dataset, loaded, rounds),
    }
    if frozen:
        values["frozen"] = _frozen(loaded, dataset, passed, epochs)
    _print(values)
    keep(values, json_file, figure, _figure)


def _part(dataset: ImageDataset, images: int) -> ImageDataset:
    """So many of the images, with the same share of each split."""
    if not 0 < images < len(dataset):
        return dataset
    train = round(images * len(dataset.indices("train")) / len(dataset))
    return subset(dataset, train, images - train)


def _contenders(
    trunk: Trunk, few: ImageDataset, without: list[str]
) -> tuple[dict[str, Contender], dict[str, str]]:
    """All that can run here, warmed up on a few images, and why the others cannot."""
    (own, no_own), (others, no_others) = ours(trunk), peers(trunk, few)
    contenders, left_out = {BASE: tutorial(trunk), **others, **own}, no_others | no_own
    for name in without:
        if name not in contenders.keys() - {BASE} | left_out.keys():
            raise tlcache.TlcacheError(
                f"--without {name}",
                expected=", ".join(list(contenders)[1:]),
                found="another word",
                remedy="name one of them",
            )
        contenders.pop(name, None)
        left_out[name] = "by --without"
    for name in contenders.keys() - others.keys():
        say(f"warming up {name}")
        contenders[name](few)
    return contenders, left_out


def _measured(
    trunk: Trunk, dataset: ImageDataset, contenders: dict[str, Contender], rounds: int, noise: int
) -> tuple[dict[str, list[Passed]], dict[str, list[float]]]:
    """What each contender made, and right beside each of ours its engine's images of noise/s."""
    turns: dict[str, Callable[[], Any]] = {}
    for name, contender in contenders.items():
        turns[name] = _told(name, contender, dataset)
        if name.startswith(OURS):
            say(f"setting up the forward of {name}")
            turns[FORWARD + name] = pure_forward(trunk, *name.split()[1:], noise)
    given = alternated(turns, rounds)
    speeds = {
        name.removeprefix(FORWARD): given.pop(name) for name in turns if name.startswith(FORWARD)
    }
    return given, speeds


def _told(name: str, contender: Contender, dataset: ImageDataset) -> Callable[[], Passed]:
    def run() -> Passed:
        passed = contender(dataset)
        say(f"  {name}: {passed.seconds:.2f} s, of that set-up {passed.setup_seconds:.2f} s")
        return passed

    return run


def _compared(passed: dict[str, list[Passed]]) -> dict[str, Values]:
    """Each contender's seconds, its ratio to the tutorial's loop, and its features beside those."""
    base = [one.seconds for one in passed[BASE]]
    expected = passed[BASE][0].features
    compared = {}
    for name, rounds in passed.items():
        alone = [one.pass_seconds for one in rounds]
        whole = [one.seconds for one in rounds]
        compared[name] = {
            "seconds": spread(whole),
            "setup_seconds": spread([one.setup_seconds for one in rounds]),
            "pass_seconds": spread(alone),
            "images_per_second": len(expected) / statistics.median(alone),
            "ratio": ratios(base, alone),
            "whole_ratio": ratios(base, whole),
            "largest_difference": largest_difference(rounds[-1].features, expected),
            "smallest_cosine": smallest_cosine(rounds[-1].features, expected),
        }
    return compared


def _forward(passed: dict[str, list[Passed]], speeds: dict[str, list[float]]) -> Values:
    """Each engine's speed on noise, and how near its whole pass comes to that."""
    count = len(passed[BASE][0].features)
    return {
        name: {
            "images_per_second": spread(alone),
            "pass_over_forward": ratios([count / one.pass_seconds for one in passed[name]], alone),
        }
        for name, alone in speeds.items()
    }


def _preprocess(dataset: ImageDataset, trunk: Trunk, rounds: int) -> Values:
    """Preprocessing on one core."""
    say("preprocessing alone")
    both = preprocessors(dataset, trunk.transform)
    identical = identical_inputs(dataset, trunk.transform)  # and warms up
    seconds = alternated(both, rounds)
    theirs, own = seconds.values()
    return {
        "seconds_an_image": {name: spread(values) for name, values in seconds.items()},
        "ratio": ratios(theirs, own),
        "identical": identical,
        "of": len(dataset),
    }


def _frozen(
    trunk: Trunk, dataset: ImageDataset, passed: dict[str, list[Passed]], epochs: int
) -> Values:
    """An estimate: so many times one epoch of the frozen tutorial run, over our pass and head."""
    say("one epoch of the frozen tutorial run")
    epoch = tutorial_epoch(trunk, dataset)
    rows = passed[BASE][0].features
    splits = [dataset.indices(split) for split in ("train", "val")]
    arrays = [part for at in splits for part in (rows[at], dataset.labels[at])]
    recipe, classes = tlcache.Recipe(epochs=epochs), len(dataset.classes)
    head = min(tlcache.train_head(*arrays, recipe, classes=classes).seconds for _ in range(3))
    whole = {
        name: statistics.median(one.seconds for one in rounds)
        for name, rounds in passed.items()
        if name.startswith(OURS)
    }
    return {
        "epochs": epochs,
        "epoch_seconds": epoch,
        "estimated_seconds": epochs * epoch,
        "head_seconds": head,
        "embed_seconds": whole,
        "ratio": {name: epochs * epoch / (seconds + head) for name, seconds in whole.items()},
    }


def _print(values: Values) -> None:
    machine = values["machine"]
    print(f"{values['trunk']} ({values['weights']}), {values['images']} images; "
          f"{machine['processor']}, {machine['cores']} cores")  # fmt: skip
    print(f"{BASE}: DataLoader, batch 4, {WORKERS} workers, eval(), no gradients\n")
    print_table(
        ("", "whole s", "set-up s", "pass images/s", f"pass × {BASE}", "whole ×", "off", "cosine"),
        [
            (
                name,
                f"{one['seconds']['median']:.2f}",
                f"{one['setup_seconds']['median']:.2f}",
                f"{one['images_per_second']:.1f}",
                shown(one["ratio"], ".2f"),
                f"{one['whole_ratio']['median']:.2f}",
                f"{one['largest_difference']:.1e}",
                f"{one['smallest_cosine']:.6f}",
            )
            for name, one in values["contenders"].items()
        ],
    )
    for name, reason in values["left_out"].items():
        print(f"{name}: left out, {reason}")
    print()
    print_table(
        ("forward alone, a thread a core", "images/s", "pass / forward"),
        [
            (name, shown(one["images_per_second"], ".1f"), shown(one["pass_over_forward"], ".2f"))
            for name, one in values["forward"].items()
        ],
    )
    one = values["preprocess"]
    each = (f"{name} {1e3 * s['median']:.2f} ms" for name, s in one["seconds_an_image"].items())
    print(f"\npreprocessing on one core: {', '.join(each)}; × {shown(one['ratio'], '.2f')}; "
          f"{one['identical']} of {one['of']} bit-identical")  # fmt: skip
    if "frozen" in values:
        _print_frozen(values["frozen"])


def _print_frozen(frozen: Values) -> None:
    print(f"\nestimate: {frozen['epochs']} × {frozen['epoch_seconds']:.2f} s (one epoch of the "
          f"frozen tutorial run, measured) = {frozen['estimated_seconds']:.0f} s")  # fmt: skip
    for name, ratio in frozen["ratio"].items():
        seconds = frozen["embed_seconds"][name]
        print(f"  {name}: embed {seconds:.2f} s + head {frozen['head_seconds']:.3f} s: "
              f"× {ratio:.0f}")  # fmt: skip


def _figure(values: Values) -> Any:
    contenders = values["contenders"]
    figure = new_figure(8.5, 1.4 + 0.42 * len(contenders))
    axes = figure.subplots()
    title = f"{values['trunk']}, {values['images']} images: times as fast as the tutorial's loop"
    tidy(axes, title, "pass alone, median of the rounds, from least to most; ◆ with all set-up")
    colours = [BLUE if name.startswith(OURS) else GREY for name in contenders]
    bars(axes, {name: one["ratio"] for name, one in contenders.items()}, colours)
    for row, (name, one) in enumerate(contenders.items()):
        if name.startswith(OURS):
            axes.plot([one["whole_ratio"]["median"]], [row], "D", color=SKY, mec="white", ms=7)
        text = f"{one['ratio']['median']:.2f}×  {one['images_per_second']:.0f}/s"
        note(axes, text, (one["ratio"]["max"], row))
    axes.axvline(1, color="#222222", lw=0.8)
    axes.margins(x=0.15)
    return figure


if __name__ == "__main__":
    run(main)
