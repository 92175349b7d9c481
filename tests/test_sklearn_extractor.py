from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from small_trunk import DIM, small_trunk

import tlcache.sklearn
import tlcache.trunks.load
from tlcache.cache.identity import identities
from tlcache.cache.store import FeatureStore
from tlcache.core.errors import CacheError, ImageError, InputError, TrunkError
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.sklearn import FeatureExtractor


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of trunks as they are loaded; "small" is a network, and the folder is fresh."""
    names = list[str]()

    def load(name: str, *_: object) -> tlcache.trunks.load.Trunk:
        names.append(name)
        return small_trunk()

    monkeypatch.setattr(tlcache.trunks.load, "load_trunk", load)
    monkeypatch.chdir(tmp_path)
    return names


@pytest.fixture
def paths(tiny_data: Path) -> list[str]:
    return [str(path) for path in sorted(tiny_data.glob("*/*/*"))]


def rows_in(cache: Path) -> int:
    """How many rows a cache holds, copies included."""
    stores = [FeatureStore(folder, identity) for folder, identity in identities(cache)]
    return sum(len(rows.features) for store in stores for rows in store.rows())


def opened(path: str) -> Image.Image:
    """An image that is read, and its file closed."""
    with Image.open(path) as image:
        image.load()
    return image


def pixels(path: str) -> np.ndarray:
    return np.asarray(opened(path).convert("RGB"))


def test_what_was_embedded_is_found(loaded: list[str], tiny_data: Path, paths: list[str]) -> None:
    read = embed(scan(tiny_data), small_trunk(), cache=Path("cache")).read()
    at = {str(tiny_data / path): row for path, row in zip(read.paths, read.features, strict=True)}
    found = FeatureExtractor("small", "random").fit_transform(paths)
    np.testing.assert_array_equal(found, [at[path] for path in paths])
    assert found.dtype == np.float32 and found.std(axis=0).max() > 0
    assert rows_in(Path("cache")) == 24


def test_what_was_extracted_is_found_by_embed(
    loaded: list[str], tiny_data: Path, paths: list[str]
) -> None:
    FeatureExtractor("small", "random").transform(paths[::-1])
    embedding = embed(scan(tiny_data), small_trunk(), cache=Path("cache"))
    assert (embedding.embedded, embedding.reused) == (0, 24)


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"preprocess": {"crop": 16}}, {"transform": {"crop": 16}}),
        ({"precision": "fast"}, {"precision": "fast"}),
        ({"dtype": "float16"}, {"dtype": "float16"}),
    ],
)
def test_options_are_part_of_the_identity_as_for_embed(
    options: dict[str, Any],
    same: dict[str, Any],
    loaded: list[str],
    tiny_data: Path,
    paths: list[str],
) -> None:
    embed(scan(tiny_data), small_trunk(), cache=Path("cache"))
    extractor = FeatureExtractor("small", "random", **options)
    extractor.transform(paths[:4])
    assert rows_in(Path("cache")) == 28
    embedding = embed(scan(tiny_data), small_trunk(), cache=Path("cache"), **same)
    assert embedding.embedded == 20


def test_order_is_kept_and_what_is_equal_is_computed_once(
    loaded: list[str], paths: list[str]
) -> None:
    shutil.copy(paths[0], "copy.jpg")
    extractor = FeatureExtractor("small", "random", batch_size=2, workers=2)
    one, two, three = (extractor.transform([path])[0] for path in paths[:3])
    many = extractor.transform([paths[2], "copy.jpg", *paths[3:6], paths[1], paths[3], paths[0]])
    np.testing.assert_array_equal(many[[0, 1, 5, 7]], [three, one, two, one])
    np.testing.assert_array_equal(many[2], many[6])
    assert rows_in(Path("cache")) == 6


FORMS: dict[str, Callable[[list[str]], Any]] = {
    "paths": lambda paths: [Path(path) for path in paths],
    "tuple": tuple,
    "strings": np.array,
    "objects": lambda paths: np.array(paths, object),
    "column": lambda paths: np.array(paths)[:, None],
    "series": pd.Series,
    "table": lambda paths: pd.DataFrame({"path": paths}),
    "relative": lambda paths: [os.path.relpath(path) for path in paths],
    "pillow": lambda paths: [opened(path) for path in paths],
    "pixels": lambda paths: np.stack([pixels(path) for path in paths]),
    "mixed": lambda paths: [paths[0], opened(paths[1]), pixels(paths[2]), Path(paths[3])],
}


@pytest.mark.parametrize("form", FORMS)
def test_images_come_in_many_forms(form: str, loaded: list[str], paths: list[str]) -> None:
    given = FORMS[form](paths[:4])
    expected = FeatureExtractor("small", "random").transform(paths[:4])
    again = FeatureExtractor("small", "random").fit(given)
    np.testing.assert_array_equal(again.transform(given), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK", "1", "I;16"])
def test_an_image_in_memory_is_what_its_file_would_be(
    mode: str, loaded: list[str], paths: list[str]
) -> None:
    image = opened(paths[0]).convert("L" if mode == "I;16" else mode)
    image = Image.fromarray(np.asarray(image).astype(np.uint16)) if mode == "I;16" else image
    image.save("image.tiff")
    extractor = FeatureExtractor("small", "random")
    expected = extractor.transform(["image.tiff"])
    np.testing.assert_array_equal(extractor.transform([image]), expected)


def test_an_image_in_memory_is_cached_like_the_file_of_its_pixels(
    loaded: list[str], paths: list[str]
) -> None:
    extractor = FeatureExtractor("small", "random")
    image, flipped = opened(paths[0]), pixels(paths[0])[:, ::-1]
    image.convert("RGB").save("same.ppm")
    first = extractor.transform([image, flipped, pixels(paths[0]), flipped.copy()])
    assert rows_in(Path("cache")) == 2
    np.testing.assert_array_equal(first, first[[0, 1, 0, 1]])
    assert np.abs(first[0] - first[1]).max() > 0
    np.testing.assert_array_equal(extractor.transform(["same.ppm"]), first[:1])
    assert rows_in(Path("cache")) == 2


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_kept(
    loaded: list[str], paths: list[str]
) -> None:
    Path("bad.jpg").write_bytes(b"no image")
    data = Path(paths[0]).read_bytes()
    Path("cut.jpg").write_bytes(data[: len(data) // 2])
    os.mkfifo("pipe.jpg")
    with Image.open("cut.jpg") as cut, pytest.raises(ImageError) as caught:
        bad = ["bad.jpg", "missing.jpg", "pipe.jpg", cut]
        FeatureExtractor("small", "random").transform([paths[0], *bad, paths[1]])
    text = str(caught.value)
    assert text.startswith("images: expected images that can be read, found 4 that cannot: bad.jpg")
    for words in (
        "bad.jpg (expected an image, found bytes that are no image)",
        "missing.jpg (No such file or directory)",
        "pipe.jpg (it is no regular file)",
        "X[4] (expected an image, found image file is truncated",
    ):
        assert words in text
    assert text.endswith("; replace or remove them; the rows of all others are in the cache")
    assert rows_in(Path("cache")) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a.jpg", "X: expected a list of paths or images, found str; put them into a list"),
        (Path("a.jpg"), "X: expected a list of paths or images, found PosixPath; put them into a"),
        ([], "X: expected at least one image, found none; pass some"),
        (np.zeros((3, 2)), "X: expected a list of paths or images, found float64 of shape (3, 2)"),
        (np.zeros((4, 5, 3), np.uint8), "X: expected a list of paths or images, found uint8 of sh"),
        ((path for path in ["a.jpg"]), "X: expected a list of paths or images, found generator"),
        (["a.jpg", None], "X[1]: expected a path, a Pillow image, or (H, W, 3) uint8, found None"),
        ([""], "X[0]: expected a path, a Pillow image, or (H, W, 3) uint8, found ''; correct it"),
        (["a\0b"], "X[0]: expected a path, a Pillow image, or (H, W, 3) uint8, found 'a\\x00b'"),
        ([np.zeros((5, 5), np.uint8)], "X[0]: expected a path, a Pillow image, or (H, W, 3) uint8"),
        ([np.zeros((0, 5, 3), np.uint8)], "X[0]: expected a path, a Pillow image, or (H, W, 3)"),
        ([np.zeros((5, 5, 3))], "X[0]: expected a path, a Pillow image, or (H, W, 3) uint8, found"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "X: expected a list of paths or images, found o"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_what_holds_no_images_is_refused(
    method: str, given: Any, words: str, loaded: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        getattr(FeatureExtractor("small", "random"), method)(given)
    assert isinstance(caught.value, InputError) and str(caught.value).startswith(words)
    assert not Path("cache").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trunk": 5}, "trunk: expected a name or a Trunk, found 5; correct it"),
        ({"weights": None}, "weights: expected imagenet, random or a file, found None; "),
        ({"cache": 3}, "cache: expected a folder or None, found 3; correct it"),
        ({"preprocess": 3}, "preprocess: expected a dict or None, found 3; correct it"),
        ({"preprocess": {"size": 9}}, "preprocess: expected some of kind, resize, crop, "),
        ({"preprocess": {"kind": "train"}}, "preprocess: expected the eval transform, beside wh"),
        ({"preprocess": {"mean": None}}, "preprocess: expected values of the transform's own kin"),
        ({"preprocess": {"crop": 0}}, "preprocess crop: expected 1 to 4096 pixels, found 0"),
        ({"precision": "fp8"}, "precision: expected fp32 or fast or fp16 or bf16, found fp8; "),
        ({"dtype": "int8"}, "dtype: expected float32 or float16, found int8; name one of them"),
        ({"device": None}, "device: expected a word, found None; correct it"),
        ({"device": "gpu"}, "device gpu: expected auto, cpu, cuda or cuda:N, found another word"),
        ({"engine": "tf"}, "engine: expected auto or torch or mnn, found tf; correct it"),
        ({"workers": -1}, "workers: expected a whole number over 0, found -1; "),
        ({"workers": 1.5}, "workers: expected a whole number or None, found 1.5; correct it"),
        ({"batch_size": 0}, "batch_size: expected a whole number over 0, found 0; "),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_an_option_that_makes_no_sense_is_named(
    method: str, options: dict[str, Any], words: str, loaded: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        getattr(FeatureExtractor(**{"trunk": "small", "weights": "random"} | options), method)(
            ["a.jpg"]
        )
    assert str(caught.value).startswith(words)


def test_an_unknown_trunk_is_refused_by_fit() -> None:
    with pytest.raises(TrunkError, match="resnet18"):
        FeatureExtractor("resnet81", "random", cache=None).fit(["a.jpg"])


def test_features_have_names_and_tables_keep_their_index(
    loaded: list[str], paths: list[str]
) -> None:
    extractor = FeatureExtractor("small", "random")
    names = [f"featureextractor{i}" for i in range(DIM)]
    assert extractor.get_feature_names_out().tolist() == names
    expected = extractor.transform(paths[:2])
    table = pd.Series(paths[:2], index=["x", "y"])
    shown = extractor.set_output(transform="pandas").fit_transform(table)
    assert (list(shown.columns), list(shown.index)) == (names, ["x", "y"])
    np.testing.assert_array_equal(shown.to_numpy(), expected)


def test_without_a_cache_nothing_is_kept(loaded: list[str], paths: list[str]) -> None:
    before = sorted(Path().rglob("*"))
    kept = FeatureExtractor("small", "random", cache="elsewhere").transform(paths)
    shutil.rmtree("elsewhere")
    none = FeatureExtractor("small", "random", cache=None)
    np.testing.assert_array_equal(none.fit_transform(paths), kept)
    assert sorted(Path().rglob("*")) == before


def test_rows_that_are_gone_before_they_are_read_are_an_error(
    loaded: list[str], paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlcache.features.extract.make_rows", lambda *_: {})
    with pytest.raises(CacheError) as caught:
        FeatureExtractor("small", "random").transform(paths[:3])
    assert "expected 3 rows that were committed just now, found none of them; run again" in str(
        caught.value
    )


def test_a_clone_and_a_pickle_make_the_same_features(loaded: list[str], paths: list[str]) -> None:
    one: Any = np.int64(1)
    extractor = FeatureExtractor("small", Path("random"), Path("cache"), workers=one)
    expected = extractor.fit_transform(paths[:3])
    for other in (clone(extractor), pickle.loads(pickle.dumps(extractor))):
        assert other.get_params() == extractor.get_params()
        np.testing.assert_array_equal(other.transform(paths[:3]), expected)


def test_a_trunk_serves_as_well_as_its_name(loaded: list[str], paths: list[str]) -> None:
    expected = FeatureExtractor("small", "random").transform(paths[:3])
    given = clone(FeatureExtractor(small_trunk())).fit(paths)
    np.testing.assert_array_equal(given.transform(paths[:3]), expected)
    assert rows_in(Path("cache")) == 3
