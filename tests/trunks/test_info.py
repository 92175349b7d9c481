from __future__ import annotations

import dataclasses
import json
import os
import platform
from pathlib import Path
from time import time_ns
from typing import Any

import pytest

from tlcache.core.errors import CacheError, TrunkError
from tlcache.data.transforms import Transform
from tlcache.trunks import info as trunk_memo
from tlcache.trunks.info import (
    FileStamp,
    TrunkInfo,
    note_transform,
    parse_weights,
    recall,
    remember,
)

TRANSFORM = Transform(resize=232, crop=96, interpolation="bicubic", mean=(0.5, 0.1, 1 / 3))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / "mine.pth"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    os.utime(path, ns=(10**18, 10**18))  # so that a change within a tick of the clock shows
    return path


@pytest.fixture
def memo(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


@pytest.fixture
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test writes have been at rest for a minute."""
    monkeypatch.setattr(trunk_memo, "time_ns", lambda: time_ns() + 60 * 10**9)


def info_of(weights: str | Path, **changes: Any) -> TrunkInfo:
    source = FileStamp.of(Path(weights)) if Path(weights).exists() else None
    info = TrunkInfo(
        name="resnet18",
        weights=str(weights),
        digest="ab" * 32,
        dim=512,
        transform=TRANSFORM,
        source=source,
        origin="published with resnet18" if source else "",
    )
    return dataclasses.replace(info, **changes)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


# --- what is asked for


@pytest.mark.parametrize(
    ("weights", "wanted", "label"),
    [
        ("imagenet", "imagenet", "imagenet1k"),
        ("random", 0, "random0"),
        ("random:0", 0, "random0"),
        ("random:007", 7, "random7"),
        ("random:4294967295", 4294967295, "random4294967295"),
        ("a/MobileNet-V2 (best).pth", Path("a/MobileNet-V2 (best).pth"), "mobilenet_v2_best"),
        ("./imagenet", Path("imagenet"), "imagenet"),
        ("x" * 40 + ".pt", Path("x" * 40 + ".pt"), "x" * 24),
        ("é.pth", Path("é.pth"), "weights"),
        ("randomly.pth", Path("randomly.pth"), "randomly"),
    ],
)
def test_weights_are_a_word_a_seed_or_a_file(
    weights: str, wanted: str | int | Path, label: str
) -> None:
    assert parse_weights(weights) == wanted
    assert info_of(weights).label == label


@pytest.mark.parametrize(
    "seed", ["", "-1", "1.5", "x", "4294967296", "\u0661", " 1", "1\n", "9" * 5000]
)
def test_a_seed_that_is_no_number_is_refused(seed: str) -> None:
    with pytest.raises(TrunkError, match="expected random:SEED with a seed from 0 to 4294967295"):
        parse_weights(f"random:{seed}")


def test_no_file_is_named_with_what_exists_of_its_path(tmp_path: Path) -> None:
    words = (
        rf"^{tmp_path}/no/such/w\.pth: expected a weights file \(\.pth, \.pt or \.safetensors\), "
        rf"found nothing there \(what exists of the path is {tmp_path}\); "
        "correct --weights: imagenet, random, random:SEED or a file's path$"
    )
    with pytest.raises(TrunkError, match=words):
        FileStamp.of(tmp_path / "no" / "such" / "w.pth")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path, found in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a special file"),
        (tmp_path / "file" / "w.pth", f"nothing there .*{tmp_path}/file"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\0b", "embedded null"),
    ):
        with pytest.raises(TrunkError, match=f"found {found}"):
            FileStamp.of(path)


# --- recall and remember


@pytest.mark.usefixtures("_later")
@pytest.mark.parametrize("spec", ["imagenet", "random", "random:3"])
def test_what_is_remembered_is_recalled(memo: Path, spec: str) -> None:
    assert recall(memo, "resnet18", spec) is None
    assert remember(memo, info_of(spec))
    assert recall(memo, "resnet18", spec) == info_of(spec)


@pytest.mark.usefixtures("_later")
def test_a_file_is_recalled_by_whatever_path(
    memo: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = info_of(weights)
    assert remember(memo, info)
    monkeypatch.chdir(weights.parent)
    found = recall(memo, "resnet18", "mine.pth")
    assert found == dataclasses.replace(info, weights="mine.pth")
    assert found is not None and found.source == info.source
    assert found.origin == "published with resnet18"


@pytest.mark.usefixtures("_later")
def test_another_question_is_not_answered(memo: Path, weights: Path) -> None:
    remember(memo, info_of(weights))
    remember(memo, info_of("random"))
    assert recall(memo, "resnet34", str(weights)) is None
    assert recall(memo, "resnet18", str(weights.with_name("other.pth"))) is None
    assert recall(memo, "resnet18", "random:1") is None
    assert recall(memo, "resnet18", "imagenet") is None
    assert recall(memo / "elsewhere", "resnet18", "random") is None


@pytest.mark.parametrize("package", ["torch", "torchvision", "timm"])
def test_another_version_is_another_question(
    memo: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    remember(memo, info_of("random"))
    real = trunk_memo._version
    monkeypatch.setattr(trunk_memo, "_version", lambda p: "0" if p == package else real(p))
    assert recall(memo, "resnet18", "random") is None


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert trunk_memo._version("no-such-package-of-that-name") is None


def test_another_format_or_machine_is_another_question(
    memo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(memo, info_of("random"))
    with monkeypatch.context() as patch:
        patch.setattr(trunk_memo, "FORMAT", 2)
        assert recall(memo, "resnet18", "random") is None
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "another")
        assert recall(memo, "resnet18", "random") is None
    assert recall(memo, "resnet18", "random")


def overwrite_in_place(path: Path) -> None:
    status = path.stat()
    while path.stat().st_ctime_ns == status.st_ctime_ns:
        path.write_bytes(b"WEIGHTS")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # only ctime tells


def replace_file(path: Path) -> None:
    status = path.stat()
    path.with_name("new").write_bytes(b"WEIGHTS")
    path.with_name("new").replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_for_a_link(path: Path) -> None:
    path.with_name("new").write_bytes(b"WEIGHTS")
    path.unlink()
    path.symlink_to("new")


@pytest.mark.usefixtures("_later")
@pytest.mark.parametrize(
    "change",
    [
        Path.touch,
        Path.unlink,
        lambda path: path.write_bytes(b"longer weights"),
        lambda path: os.utime(path, ns=(0, 0)),
        overwrite_in_place,
        replace_file,
        swap_for_a_link,
    ],
)
def test_a_weights_file_that_was_touched_in_any_way_is_digested_again(
    memo: Path, weights: Path, change: Any
) -> None:
    info = info_of(weights)
    remember(memo, info)
    assert recall(memo, "resnet18", str(weights)) == info
    change(weights)
    assert recall(memo, "resnet18", str(weights)) is None


def test_published_weights_are_checked_like_a_file(
    memo: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk_memo, "time_ns", lambda: time_ns() + 60 * 10**9)
    info = info_of("imagenet", source=FileStamp.of(weights))
    remember(memo, info)
    assert recall(memo, "resnet18", "imagenet") == info
    weights.touch()
    assert recall(memo, "resnet18", "imagenet") is None


@pytest.mark.parametrize(("seconds", "trusted"), [(1.9, False), (2.1, True)])
def test_a_file_that_changed_just_before_it_was_read_is_not_trusted(
    memo: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, trusted: bool
) -> None:
    changed = max(weights.stat().st_mtime_ns, weights.stat().st_ctime_ns)
    monkeypatch.setattr(trunk_memo, "time_ns", lambda: changed + int(seconds * 1e9))
    info = info_of(weights)
    assert remember(memo, info)
    monkeypatch.setattr(trunk_memo, "time_ns", lambda: changed + 10**12)
    assert (recall(memo, "resnet18", str(weights)) == info) is trusted


def test_a_later_memo_replaces_the_earlier(memo: Path) -> None:
    remember(memo, info_of("random"))
    remember(memo, info_of("random:0", digest="cd" * 32))
    found = recall(memo, "resnet18", "random")
    assert found is not None and found.digest == "cd" * 32
    assert only_file(memo).suffix == ".json"


def test_every_byte_of_a_memo_is_guarded(memo: Path) -> None:
    info = info_of("random", source=None)
    remember(memo, info)
    path = only_file(memo)
    whole = path.read_bytes()
    for i in range(0, len(whole), 5):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert recall(memo, "resnet18", "random") in (None, info), i
        path.write_bytes(whole[:i])
        assert recall(memo, "resnet18", "random") is None, i
    path.write_bytes(whole)
    assert recall(memo, "resnet18", "random") == info


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b'{"key":1,"value":2,"sha256":3}', b"\xff", b"[" * 60000,
     b" " * 100_000],
)  # fmt: skip
def test_a_memo_of_nonsense_is_ignored(memo: Path, data: bytes) -> None:
    remember(memo, info_of("random"))
    only_file(memo).write_bytes(data)
    assert recall(memo, "resnet18", "random") is None


def test_a_memo_under_anothers_name_is_ignored(memo: Path) -> None:
    remember(memo, info_of("random:1"))
    one = only_file(memo)
    remember(memo, info_of("random:2", digest="cd" * 32))
    (two,) = set(memo.iterdir()) - {one}
    one.write_bytes(two.read_bytes())
    assert recall(memo, "resnet18", "random:1") is None
    assert recall(memo, "resnet18", "random:2")


def test_a_memo_edited_with_a_new_transform_is_ignored(memo: Path) -> None:
    remember(memo, info_of("random"))
    content = json.loads(only_file(memo).read_bytes())
    content["value"]["transform"]["crop"] = 224
    only_file(memo).write_text(json.dumps(content))
    assert recall(memo, "resnet18", "random") is None


@pytest.mark.usefixtures("_later")
def test_a_memo_that_does_not_say_whence_a_files_transform_is_is_not_believed(
    memo: Path, weights: Path
) -> None:
    remember(memo, info_of(weights, origin=""))
    remember(memo, info_of("imagenet", source=FileStamp.of(weights)))
    assert recall(memo, "resnet18", str(weights)) is None
    assert recall(memo, "resnet18", "imagenet")
    remember(memo, info_of(weights))
    assert recall(memo, "resnet18", str(weights)) == info_of(weights)


def test_a_memo_of_before_files_had_transforms_of_their_own_is_sound(memo: Path) -> None:
    remember(memo, info_of("random"))
    path = only_file(memo)
    content = json.loads(path.read_bytes())
    del content["value"]["origin"]
    content["sha256"] = trunk_memo._sha256([content["key"], content["value"]])
    path.write_bytes(trunk_memo._canonical(content))
    assert recall(memo, "resnet18", "random") == info_of("random")


@pytest.mark.parametrize(
    ("origin", "changes", "line"),
    [
        ("published with x", {}, "transform: resize 232, crop 96, bicubic, mean 0.5 0.1 0.333333, "
         "std 0.229 0.224 0.225 (published with x)"),
        ("published with x", {"crop": 64, "std": (1, 1, 1)}, "transform: resize 232, crop 64, "
         "bicubic, mean 0.5 0.1 0.333333, std 1 1 1 (published with x; as asked: --crop, --std)"),
        ("published with x", dataclasses.asdict(TRANSFORM), None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_a_files_transform_is_said_in_a_line(
    origin: str, changes: dict[str, Any], line: str | None
) -> None:
    said: list[str] = []
    note_transform(info_of("w.pth", origin=origin), changes, said.append)
    assert said == ([] if line is None else [line])


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert remember(tmp_path / "file" / "memo", info_of("random")) is False
    assert recall(tmp_path / "file" / "memo", "resnet18", "random") is None

    def full(path: Path, data: bytes) -> None:
        raise CacheError(path, expected="space", found="none", remedy="make some")

    monkeypatch.setattr(trunk_memo, "write_atomically", full)
    assert remember(tmp_path / "memo", info_of("random")) is False
