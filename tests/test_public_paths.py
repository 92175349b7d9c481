"""Every path that a public name takes may be a str or any os.PathLike; anything else is one line.

A public function with a new path parameter has to stand in this table.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_cache import small_cache
from small_trunk import load_small, make_images, small_model, small_trunk
from torchvision.models import squeezenet1_1
from written_runs import answers, written_run

import tlcache
import tlcache.export.export
import tlcache.features.read
import tlcache.sklearn
import tlcache.studies.bench
from tlcache.core.errors import InputError
from tlcache.core.files import StrPath
from tlcache.features.read import Features, LabelledRows

SHORT = tlcache.Recipe(epochs=1)
NETWORK = "squeezenet1_1"
SMALL = {"resize": 32, "crop": 32}
IMAGES = "data/val/ants/0.png"
ROWS = LabelledRows(
    np.zeros((1, 2), np.float32), np.zeros(1, int), np.array(["a.png"], object), np.array(["val"])
)


def embedded(weights: StrPath = "random") -> tlcache.features.read.Embedding:
    data = tlcache.scan("data")
    return tlcache.embed(data, NETWORK, weights, cache="cache", transform=SMALL)


def extracted(**options: Any) -> object:
    chosen: dict[str, Any] = {"weights": "random", "cache": None, "preprocess": SMALL} | options
    return tlcache.sklearn.FeatureExtractor(NETWORK, **chosen).transform([IMAGES])


def exported(output: StrPath = "m.file", image: StrPath = IMAGES, **options: StrPath) -> object:
    model = small_model()
    return tlcache.export_model(model, output, "safetensors", images=[image], force=True, **options)  # type: ignore[arg-type]


# mypy reads these too: each of them may be a str or any os.PathLike.
TABLE: dict[tuple[str, str], tuple[str, Callable[[StrPath], object]]] = {
    ("FeatureExtractor", "cache"): ("kept", lambda path: extracted(cache=path)),
    ("FeatureExtractor", "weights"): ("w.pth", lambda path: extracted(weights=path)),
    ("Embedding.read", "spool"): (".", lambda path: embedded().read(path)),
    ("benchmark", "memo"): (
        "memo",
        lambda path: tlcache.benchmark(
            tlcache.scan("data"), "small", "random", SHORT, contenders=["frozen"], memo=path
        ),
    ),
    ("benchmark", "weights"): (
        "w.pth",
        lambda path: tlcache.benchmark(
            tlcache.scan("data"), "small", path, SHORT, contenders=["frozen"]
        ),
    ),
    ("collect_garbage", "cache"): ("pets", tlcache.collect_garbage),
    ("collect_garbage", "folders"): (
        "pets/{identity}",
        lambda path: tlcache.collect_garbage("pets", [path]),
    ),
    ("embed", "cache"): (
        "cache",
        lambda path: tlcache.embed(tlcache.scan("data"), small_trunk(), cache=path),
    ),
    ("embed", "weights"): ("w.pth", embedded),
    ("export_model", "output"): ("m.safetensors", exported),
    ("export_model", "images"): (IMAGES, lambda path: exported(image=path)),
    ("export_model", "weights"): ("w.pth", lambda path: exported(weights=path)),
    ("export_model", "memo"): ("memo", lambda path: exported(memo=path)),
    ("finetune", "checkpoint"): (
        "checkpoint",
        lambda path: tlcache.finetune(
            tlcache.scan("data"), small_trunk(), SHORT, workers=0, checkpoint=path
        ),
    ),
    ("list_cache", "cache"): ("pets", tlcache.list_cache),
    ("list_runs", "folder"): ("runs", tlcache.list_runs),
    ("load_model", "path"): ("runs/a", tlcache.load_model),
    ("load_trunk", "memo_dir"): (
        "memo",
        lambda path: tlcache.load_trunk(NETWORK, "random", path),
    ),
    ("load_trunk", "weights"): ("w.pth", lambda path: tlcache.load_trunk(NETWORK, path)),
    ("open_snapshot", "path"): ("pets/{identity}/snapshots/pets.h5", tlcache.open_snapshot),
    ("save_model", "path"): (
        "saved.safetensors",
        lambda path: tlcache.save_model(path, small_model()),
    ),
    ("scan", "folder"): ("data", tlcache.scan),
    ("verify_cache", "cache"): ("pets", tlcache.verify_cache),
    ("verify_cache", "identities"): (
        "pets/{identity}",
        lambda path: tlcache.verify_cache("pets", [path]),
    ),
    ("write_features", "path"): (
        "f.npz",
        lambda path: tlcache.write_features(path, ROWS, ["ants"], force=True),
    ),
}


class Elsewhere(os.PathLike[str]):
    """A path of somebody else's."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __fspath__(self) -> str:
        return self.text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything: images, a cache, a run, a file of weights."""
    home = tmp_path_factory.mktemp("home")
    make_images(home / "data", 2, 2)
    small_cache(home / "pets")
    written_run(home / "runs" / "a", {"val": answers(4, 2, 1)})
    torch.save(squeezenet1_1().state_dict(), home / "w.pth")
    for path in home.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    return home


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(tlcache.studies.bench, "load_trunk", load_small)

    def network(model: object, weights: object = None, memo: object = None) -> torch.nn.Module:
        assert isinstance(weights, str | None) and isinstance(memo, Path | None)
        return small_trunk().module

    monkeypatch.setattr(tlcache.export.export, "load_network", network)


def written(text: str) -> str:
    (snapshot,) = Path("pets").glob("*/snapshots/*.h5")
    return text.format(identity=snapshot.parents[1].name)


@pytest.mark.parametrize(("name", "parameter"), TABLE)
def test_a_path_may_be_a_str_or_any_path(name: str, parameter: str) -> None:
    text, use = TABLE[name, parameter]
    for kind in (str, Path, Elsewhere):
        use(kind(written(text)))


@pytest.mark.parametrize(("name", "parameter"), TABLE)
def test_what_is_no_path_is_one_clear_line(name: str, parameter: str) -> None:
    for wrong in (3, b"bytes", ["a"], ""):
        with pytest.raises(InputError) as caught:
            TABLE[name, parameter][1](wrong)  # type: ignore[arg-type]
        assert caught.value.where.partition("[")[0] == parameter
        assert repr(wrong) in caught.value.found and "\n" not in str(caught.value)


def test_one_path_is_no_list_of_paths() -> None:
    for call in (
        lambda: tlcache.collect_garbage("pets", "folder"),
        lambda: tlcache.verify_cache("pets", "4f31"),
        lambda: tlcache.export_model(small_model(), "m", "safetensors", images=IMAGES),
    ):
        with pytest.raises(InputError, match=r"expected a list of paths, found '.*'; put it into"):
            call()


def test_a_folder_s_name_is_no_data_set() -> None:
    folder: Any = "data"
    for call in (
        lambda: tlcache.embed(folder, small_trunk()),
        lambda: tlcache.finetune(folder, small_trunk()),
        lambda: tlcache.benchmark(folder, "small", "random"),
    ):
        with pytest.raises(InputError, match="dataset: expected what scan gives, found 'data'; "):
            call()


def test_a_file_that_is_called_like_a_word_is_a_file_where_it_is_a_path() -> None:
    Path("random").write_bytes(Path("w.pth").read_bytes())
    by_word, by_path = embedded("random"), embedded(Path("random"))
    assert by_word.trunk.digest != by_path.trunk.digest == embedded("w.pth").trunk.digest


PATHLIKE = {"cache", "checkpoint", "file", "folder", "folders", "identities", "images", "memo"}
PATHLIKE |= {"memo_dir", "output", "path", "root", "spool", "weights"}


def test_every_path_of_a_public_name_stands_in_the_table() -> None:
    functions = {name: getattr(tlcache, name) for name in tlcache.__all__}
    functions = {name: found for name, found in functions.items() if not isinstance(found, type)}
    for name, found in vars(tlcache.sklearn).items():
        if isinstance(found, type) and found.__module__ == "tlcache.sklearn":
            functions[name] = found
    functions["Embedding.read"] = tlcache.features.read.Embedding.read
    taken = set()
    for name, function in functions.items():
        for parameter in inspect.signature(function).parameters.values():
            kind = str(parameter.annotation)
            if "Path" in kind or parameter.name in PATHLIKE:
                assert re.search(r"\bStrPath\b", kind), f"{name}({parameter})"
                taken.add((name, parameter.name))
    assert taken == TABLE.keys()


def test_dir_lists_the_public_names_alone() -> None:
    assert dir(tlcache) == sorted([*tlcache.__all__, "__version__"])
    assert Features.__name__ not in dir(tlcache)
