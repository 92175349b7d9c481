"""The real download code, against a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

import tlcache.trunks.published
from tlcache.core.errors import TrunkError
from tlcache.trunks.load import load_trunk
from tlcache.trunks.published import fetch


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A server's address and its folder; torch's hub keeps its files below tmp_path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def published(folder: Path) -> str:
    """A file of weights as torch.hub names them: with the first digits of its checksum."""
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), folder / "w.pth")
    digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
    name = f"small-{digest[:8]}.pth"
    (folder / "w.pth").rename(folder / name)
    return name


def test_weights_are_downloaded_once_and_checked(site: tuple[str, Path]) -> None:
    address, folder = site
    name = published(folder)
    path = fetch(f"{address}/{name}")
    assert path.read_bytes() == (folder / name).read_bytes()
    (folder / name).unlink()
    assert fetch(f"{address}/{name}") == path


def test_imagenet_weights_come_with_their_own_transform(
    site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = site
    url = f"{address}/{published(folder)}"
    real = tlcache.trunks.published.fetch
    monkeypatch.setattr(tlcache.trunks.published, "fetch", lambda _: real(url))
    trunk = load_trunk("mobilenet_v3_small", "imagenet")
    assert trunk.dim == 1024
    assert (trunk.transform.resize, trunk.transform.crop) == (256, 224)


def test_a_file_with_another_checksum_is_refused(site: tuple[str, Path]) -> None:
    address, folder = site
    name = published(folder)
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TrunkError, match="--weights FILE"):
        fetch(f"{address}/{name}")


def test_no_network_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "http://127.0.0.1:9/resnet18-f37072fd.pth"
    with pytest.raises(TrunkError) as refused:
        fetch(url)
    for word in (url, str(tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"), "--weights FILE"):
        assert word in str(refused.value)
