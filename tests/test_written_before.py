"""A cache and a run that an earlier version wrote: nothing is made again, and all of it is read.

``written_before/`` is what these commands of version 0.1.0 at the commit 9713b65 left in an empty
folder with the images of ``pets/``, save for the memo of the weights, which is one machine's:

    tlcache embed pets --trunk squeezenet1_1 --weights random --resize 72 --crop 64 --views 2 --json
    tlcache train pets (the same options) --epochs 5 --lr 0.05 --no-figures --run-dir runs/pets
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from called import tlcache
from safetensors.numpy import load_file

import tlcache as api
from tlcache.cache.identity import read_identity
from tlcache.features.read import Embedding, open_snapshot
from tlcache.trunks.info import TrunkInfo, remember

EVAL, TRAIN = "squeezenet1_1-random0-eval-84f31824", "squeezenet1_1-random0-train-f1ef08ab"
SNAPSHOT = Path("cache", EVAL, "snapshots", "pets-6980d196.h5")
OPTIONS = ("--trunk", "squeezenet1_1", "--weights", "random", "--resize", "72", "--crop", "64")
RECIPE = ("--epochs", "5", "--lr", "0.05", "--no-figures", "--run-dir", "runs/new")


@pytest.fixture(autouse=True)
def _written_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it in the folder that tests run in, as if on the machine that wrote it."""
    shutil.copytree(Path(__file__).parent / "written_before", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    identity = read_identity(Path("cache", EVAL))
    # The same libraries and, from the memo, the same random weights, which no other has in full.
    monkeypatch.setattr("tlcache.features.stores.library_versions", lambda _: identity.versions)
    plain = api.load_trunk("squeezenet1_1", "random").info
    info = TrunkInfo(
        name=plain.name,
        weights="random",
        digest=identity.weights,
        dim=identity.dim,
        transform=plain.transform,
    )
    assert remember(Path("cache", "weights"), info)
    monkeypatch.setattr("tlcache.trunks.load.load_trunk", lambda *_: pytest.fail("loaded"))


def said(*command: str) -> Any:
    """The JSON of a command that succeeds."""
    done = tlcache(*command, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def kept(name: str) -> Any:
    """A JSON file."""
    return json.loads(Path(name).read_bytes())


def keys(values: Any) -> Any:
    """Plain JSON values without the values; of a list, one of its objects stands for all."""
    if isinstance(values, dict):
        return {name: keys(value) for name, value in values.items()}
    return [keys(values[0])] if isinstance(values, list) and values else None


def shards(folder: str) -> dict[tuple[bytes, int], np.ndarray]:
    """The rows of a folder by their names, read with nothing but h5py."""
    rows: dict[tuple[bytes, int], np.ndarray] = {}
    for path in Path("cache", folder, "shards").iterdir():
        with h5py.File(path) as file:
            images, views, features = (file[name][:] for name in ("images", "views", "features"))
        rows |= {(i.tobytes(), int(v)): f for i, v, f in zip(images, views, features, strict=True)}
    return rows


def check_features(embedding: Embedding) -> None:
    """They are those of the shards, to the bit."""
    read, dataset = embedding.read(), embedding.snapshot.dataset
    digest = dict(zip(dataset.paths, embedding.snapshot.digests, strict=True))
    plain, augmented = shards(EVAL), shards(TRAIN)
    assert len(plain) == len(read.paths) == 10 and len(augmented) == 12
    for path, row in zip(read.paths, read.features, strict=True):
        np.testing.assert_array_equal(row, plain[digest[path].tobytes(), 0])
    assert read.train_views is not None
    for view, rows in enumerate(read.train_views):
        for path, row in zip(read.split_paths("train"), rows, strict=True):
            np.testing.assert_array_equal(row, augmented[digest[path].tobytes(), view])


def test_nothing_is_embedded_again() -> None:
    before = {path: path.read_bytes() for path in Path("cache").glob("squeezenet*/**/*.*")}
    done = said("embed", "pets", *OPTIONS, "--views", "2")
    assert (done["embedded"], done["reused"]) == (0, 10)
    assert done["identity"] == kept("embed.json")["identity"]
    later = dict.fromkeys(["embedded_rows", "rows_per_second"])
    assert keys(done) == keys(kept("embed.json")) | later
    # The data set lies elsewhere, so it has another name, and a snapshot more than before.
    new = set(Path("cache").glob("squeezenet*/**/*.*")) - before.keys()
    assert new == {SNAPSHOT.with_name(f"{done['dataset']}.h5")}
    assert {path: path.read_bytes() for path in before} == before
    check_features(open_snapshot(new.pop(), 2))


def test_another_wheel_reads_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built for a GPU, a patch release later, with decoders that identities did not name."""
    versions = dict(read_identity(Path("cache", EVAL)).versions) | {"libwebp": "1.6.0"}
    versions["torch"] = versions["torch"].rpartition(".")[0] + ".7+cu130"
    monkeypatch.setattr("tlcache.features.stores.library_versions", lambda _: versions.items())
    done = tlcache("embed", "pets", *OPTIONS, "--views", "2", "--json")
    counts = json.loads(done.stdout)
    assert (counts["embedded"], counts["reused"]) == (0, 10)
    assert counts["identity"] == kept("embed.json")["identity"]
    assert "identity" not in done.stderr
    assert {path.name for path in Path("cache").glob("squeezenet*")} == {EVAL, TRAIN}


def test_a_snapshot_is_opened_without_its_images() -> None:
    shutil.rmtree("pets")
    embedding = api.open_snapshot(SNAPSHOT, 2)
    assert embedding.snapshot.dataset.classes == ("cats", "dogs")
    check_features(embedding)


def test_a_head_trained_before_says_what_it_said() -> None:
    said_then = load_file("runs/pets/predictions.safetensors")
    rows, labels = api.open_snapshot(SNAPSHOT).read().split("val")
    logits = api.load_model(Path("runs/pets/model.safetensors")).head.logits(rows)
    np.testing.assert_allclose(logits, said_then["val.logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, said_then["val.labels"])
    then = kept("train.json")["evaluation"]["val"]
    assert said("evaluate", "runs/pets", str(SNAPSHOT))["confusion"] == then["confusion"]


def test_training_writes_what_it_wrote(tmp_path: Path) -> None:
    done = said("train", "pets", *OPTIONS, "--views", "2", *RECIPE)
    assert keys(done) == keys(kept("train.json"))
    assert (done["embedded"], done["reused"]) == (0, 10)
    for split, judged in kept("train.json")["evaluation"].items():
        assert done["evaluation"][split]["confusion"] == judged["confusion"]
        assert done["evaluation"][split]["loss"] == pytest.approx(judged["loss"], rel=1e-5)
    source = dict.fromkeys(["path", "fractions", "seed", "unsplit"])
    for name, later in (("run.json", {"source": source, "weights": None}), ("metrics.json", {})):
        new, old = kept(f"runs/new/{name}"), kept(f"runs/pets/{name}")
        for described in (new, old):
            described.pop("versions", None)  # of what is installed here
        assert keys(new) == keys(old) | later, name
    files = {path.name for path in Path("runs/new").iterdir()}
    assert files == {path.name for path in Path("runs/pets").iterdir()}


def test_the_cache_is_sound_and_listed() -> None:
    found = said("cache", "verify")
    assert found["sound"] and (found["shards"], found["rows"], found["snapshots"]) == (2, 22, 1)
    assert set(found["notes"].values()) == {0}
    listed = said("cache", "ls")["identities"]
    assert [(each["name"], each["rows"]) for each in listed] == [(EVAL, 10), (TRAIN, 12)]
    about = said("cache", "info", EVAL)
    assert about["identity"] == kept(f"cache/{EVAL}/identity.json")
    (snapshot,) = about["snapshots"]
    assert (snapshot["dataset"], snapshot["views"]) == ("pets-6980d196", 2)
    assert said("cache", "gc", "--dry-run")["identities"][0]["unnamed"] == 0


def test_the_run_is_listed() -> None:
    listed = said("runs", "ls")
    (run,) = listed["runs"]
    assert listed["damaged"] == [] and run["command"] == "train"
    assert run["trunk"] == "squeezenet1_1"
