"""How torchvision's weights are had through torch.hub, and every way in which they are not."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from tlcache.core.errors import TrunkError
from tlcache.core.files import sha256_of
from tlcache.data.transforms import Transform
from tlcache.trunks import info as trunk_memo
from tlcache.trunks import published
from tlcache.trunks.info import recall
from tlcache.trunks.load import load_trunk
from tlcache.trunks.published import fetch, published_weights

SQUEEZENET = torchvision.models.SqueezeNet1_1_Weights.DEFAULT


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps its files in this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


class Server(http.server.BaseHTTPRequestHandler):
    content = b""
    claimed = 0

    def do_GET(self) -> None:
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.claimed or len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def squeezenet(tmp_path: Path) -> Path:
    """A state dict of a whole squeezenet1_1, named as torch.hub names files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    return (tmp_path / "w.pth").rename(tmp_path / f"small-{sha256_of(tmp_path / 'w.pth')[:8]}.pth")


@pytest.fixture
def url(address: str, squeezenet: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where torchvision believes its squeezenet1_1 to be."""
    monkeypatch.setattr(Server, "content", squeezenet.read_bytes())
    monkeypatch.setattr(SQUEEZENET.value, "url", f"{address}/{squeezenet.name}")
    return f"{address}/{squeezenet.name}"


def refused(words: str) -> Any:
    return pytest.raises(TrunkError, match=words)


# --- torchvision's, through torch.hub


def test_a_download_becomes_a_trunk_and_leaves_standard_output_alone(
    checkpoints: Path, url: str, squeezenet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = load_trunk("squeezenet1_1", "imagenet")
    assert trunk.digest == load_trunk("squeezenet1_1", str(squeezenet)).digest
    assert trunk.label == "imagenet1k"
    assert trunk.source is not None
    assert Path(trunk.source.path) == checkpoints / squeezenet.name
    assert [path.name for path in checkpoints.iterdir()] == [squeezenet.name]
    assert capsys.readouterr().out == ""


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


def test_published_weights_are_remembered_until_their_file_changes(
    tmp_path: Path, checkpoints: Path, url: str, squeezenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = trunk_memo.__dict__["time_ns"]
    monkeypatch.setattr(trunk_memo, "time_ns", lambda: now() + 60 * 10**9)
    trunk = load_trunk("squeezenet1_1", "imagenet", tmp_path / "memo")
    assert recall(tmp_path / "memo", "squeezenet1_1", "imagenet") == trunk.info
    (checkpoints / squeezenet.name).write_bytes(b"other")
    assert recall(tmp_path / "memo", "squeezenet1_1", "imagenet") is None


def test_a_download_with_another_hash_is_refused_and_not_kept(
    checkpoints: Path, url: str, squeezenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "content", b"something else")
    words = (
        f"{url}: expected to download these weights, found RuntimeError: invalid hash value.*; "
        f"try again, or put the file at {checkpoints / squeezenet.name}, "
        "or give another with --weights FILE"
    )
    with refused(f"^{words}$"):
        load_trunk("squeezenet1_1", "imagenet")
    assert list(checkpoints.iterdir()) == []


def test_a_download_that_breaks_off_is_refused_and_not_kept(
    checkpoints: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "claimed", len(Server.content) + 1000)
    monkeypatch.setattr(Server, "content", Server.content[:-1000])
    with refused("expected to download these weights, found .*; try again, or put the file at"):
        load_trunk("squeezenet1_1", "imagenet")
    assert list(checkpoints.iterdir()) == []


def test_a_file_that_was_put_there_must_be_the_right_one(
    checkpoints: Path, url: str, squeezenet: Path
) -> None:
    checkpoints.mkdir(parents=True)
    (checkpoints / squeezenet.name).write_bytes(b"something else")
    prefix = squeezenet.stem.partition("-")[2]
    words = (
        rf"{checkpoints / squeezenet.name}: expected the file of {url}, "
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
        ("http://127.0.0.1:9/w-0123abcd.pth", "URLError: .*Connection refused"),
        ("{address}/missing-0123abcd.pth", "HTTPError: HTTP Error 404: Not Found"),
        ("nonsense://127.0.0.1/w-0123abcd.pth", "URLError: .*unknown url type"),
        ("http://127.0.0.1:port/w-0123abcd.pth", "InvalidURL: nonnumeric port"),
    ],
)
def test_no_connection_is_an_error_that_says_where_the_file_goes(
    checkpoints: Path, address: str, path: str, found: str
) -> None:
    path = path.format(address=address)
    name = path.rpartition("/")[2]
    with refused(f"^{path}: .* found {found}.*; .* put the file at {checkpoints / name}"):
        fetch(path)
    assert list(checkpoints.iterdir()) == []


def test_a_silent_server_does_not_hold_the_program(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with refused("found .*timed out"):
            fetch(f"http://127.0.0.1:{port}/w-0123abcd.pth")
    assert socket.getdefaulttimeout() is None


def test_a_cache_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with refused("found NotADirectoryError: .*or give another with --weights FILE"):
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
