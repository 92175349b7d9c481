"""A cache that is copied alone is all that heads need.

That it takes in no features of another identity is in ``test_portability_mixed``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image
from small_trunk import small_trunk
from typer.testing import CliRunner, Result

from tlcache.cli import app
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.heads.model import load_model
from tlcache.trunks.load import load_trunk

TIMM = "timm/mobilenetv3_small_050"
SMALL = ("--resize", "40", "--crop", "32")
TRUNK = small_trunk()

BARE = """
import importlib.metadata, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"timm", "torch", "torchvision"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def version(package, real=importlib.metadata.version):
    if package == "timm":
        raise importlib.metadata.PackageNotFoundError(package)
    return real(package)

sys.meta_path.insert(0, Absent())
importlib.metadata.version = version
"""
COMMAND = """
from tlcache.cli import main
main()
"""
READ = """
import hashlib, json
from pathlib import Path
from tlcache import load_model, open_snapshot
features = open_snapshot(Path(sys.argv[1])).read()
logits = load_model(Path(sys.argv[2])).head.logits(features.features)
digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in (features.features, logits)]
print(json.dumps([*digests, features.paths, features.labels.tolist()]))
"""


def bare(code: str, *arguments: object) -> Any:
    """What a process says that has neither timm nor torch nor torchvision."""
    command = [sys.executable, "-W", "error", "-c", BARE + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def said(*arguments: object) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def copied(cache: Path, to: Path) -> list[Path]:
    """Copy what the cache knows of features, and nothing else; the snapshots of the copy."""
    for folder in cache.glob("*/identity.json"):
        target = to / folder.parent.name
        target.mkdir(parents=True)
        shutil.copyfile(folder, target / "identity.json")
        for part in ("shards", "snapshots"):
            shutil.copytree(folder.parent / part, target / part)
    return sorted(to.glob("*/snapshots/*.h5"))


@pytest.mark.parametrize("views", [0, 2])
def test_heads_are_trained_and_judged_on_a_copy_without_images_weights_and_timm(
    tiny_data: Path, tmp_path: Path, views: int
) -> None:
    weights, cache = tmp_path / "w.safetensors", tmp_path / "cache"
    safetensors.torch.save_file(load_trunk(TIMM, "random").module.state_dict(), weights)
    recipe = ("--views", views, "--epochs", 7, "--no-figures", "--run-dir")
    network = ("--trunk", TIMM, "--weights", weights, "--cache-dir", cache, *SMALL)
    old = tmp_path / "old"
    first = said("train", tiny_data, *network, *recipe, old)
    judged = said("evaluate", old, tiny_data, "--cache-dir", cache)
    made = embed(
        scan(tiny_data), TIMM, str(weights), cache=cache, transform={"resize": 40, "crop": 32}
    ).read()
    (snapshot,) = copied(cache, tmp_path / "copy")
    for folder in (tiny_data, cache):
        shutil.rmtree(folder)
    weights.unlink()

    new = tmp_path / "new"
    second = bare(COMMAND, "train", snapshot, *recipe, new, "--json")
    assert (second["embedded"], second["reused"]) == (0, 24)
    for said_of in ("best_epoch", "evaluation"):
        assert second[said_of] == first[said_of]
    heads = [load_model(run).head for run in (old, new)]
    np.testing.assert_array_equal(heads[0].weight, heads[1].weight, strict=True)
    np.testing.assert_array_equal(heads[0].bias, heads[1].bias, strict=True)
    for run in (old, new):
        assert bare(COMMAND, "evaluate", run, snapshot, "--json") == judged
    arrays = (made.features, heads[0].logits(made.features))
    digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    assert bare(READ, snapshot, old) == [*digests, made.paths, made.labels.tolist()]


def test_a_copy_is_filled_further_where_the_images_are(tiny_data: Path, tmp_path: Path) -> None:
    first = embed(scan(tiny_data), TRUNK, cache=tmp_path / "cache")
    copied(tmp_path / "cache", tmp_path / "copy")
    moved = tiny_data.rename(tmp_path / "moved")
    Image.new("RGB", (48, 40), "red").save(moved / "train" / "ants" / "red.png")
    more = embed(scan(moved), TRUNK, cache=tmp_path / "copy")
    assert (more.embedded, more.reused) == (1, 24)
    assert [s.folder.name for s in more.stores] == [s.folder.name for s in first.stores]


# --- a head and a snapshot that do not belong together


def test_a_head_is_judged_only_on_features_of_its_own_trunk_and_transform(
    tiny_data: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    network = ("--trunk", "mobilenet_v3_small", "--cache-dir", cache)
    recipe = ("--epochs", 1, "--no-figures", "--run-dir", tmp_path / "run")
    said("train", tiny_data, *network, "--weights", "random", *SMALL, *recipe)
    (own,) = cache.glob("*/snapshots/*.h5")
    with_images = said("evaluate", tmp_path / "run", tiny_data, "--cache-dir", cache)
    assert said("evaluate", tmp_path / "run", own) == with_images
    for changed, words in (
        (("--weights", "random", "--crop", "32"), "resize 40, found resize 256; evaluate on the"),
        (("--weights", "random:1", *SMALL), "or a snapshot of its own features"),
    ):
        identity = said("embed", tiny_data, *network, *changed)["identity"][:8]
        (other,) = cache.glob(f"*-{identity}/snapshots/*.h5")
        refused = call("evaluate", tmp_path / "run", other)
        assert refused.exit_code == 1
        assert words in refused.stderr and refused.stderr.count("error: ") == 1
