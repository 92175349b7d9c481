from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from small_cache import IDENTITY

from tlcache.cache.identity import Identity, folder_name, identities, read_identity, what_is_new
from tlcache.core.errors import CacheError, DamageError

KEY = IDENTITY.key[:8]


def written(cache: Path, identity: Identity, name: str | None = None) -> Path:
    folder = cache / (name or folder_name(identity, "imagenet1k"))
    folder.mkdir(parents=True)
    (folder / "identity.json").write_bytes(identity.to_json())
    return folder


def test_a_folders_identity_is_read(tmp_path: Path) -> None:
    assert read_identity(written(tmp_path, IDENTITY)) == IDENTITY
    with pytest.raises(CacheError, match=r"identity\.json: expected a readable file, found No"):
        read_identity(tmp_path)


def test_an_identity_in_another_folder_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, IDENTITY, "resnet18-imagenet1k-eval-00000000")
    with pytest.raises(DamageError) as refused:
        read_identity(folder)
    assert str(refused.value) == (
        f"{folder / 'identity.json'}: expected an identity whose key's first 8 digits end the "
        f"folder's name, found {KEY}; give the folder its own name back; or, if identity.json is "
        "at fault, run `tlcache embed` again, with the same trunk and transform: it writes it anew"
    )


def test_a_huge_identity_is_not_parsed(tmp_path: Path) -> None:
    folder = written(tmp_path, IDENTITY)
    (folder / "identity.json").write_bytes(b" " * (1 << 20) + IDENTITY.to_json())
    with pytest.raises(DamageError, match="at most 1,048,576 bytes"):
        read_identity(folder)


def test_identities_of_a_cache_come_in_order_and_unusable_ones_are_reported(tmp_path: Path) -> None:
    other = dataclasses.replace(IDENTITY, trunk="alexnet")
    folders = [written(tmp_path, other), written(tmp_path, IDENTITY)]
    damaged = written(tmp_path, IDENTITY, f"b-{KEY}") / "identity.json"
    damaged.write_bytes(IDENTITY.to_json()[:-1])
    (tmp_path / "weights").mkdir()
    (tmp_path / "README.md").touch()
    said: list[str] = []
    assert list(identities(tmp_path, said.append)) == [(folders[0], other), (folders[1], IDENTITY)]
    assert len(said) == 1
    assert said[0].startswith(f"passed over: {damaged}: expected the identity of a cache")
    assert list(identities(tmp_path / "nowhere")) == list(identities(tmp_path / "README.md")) == []


def test_somebody_elses_closed_folder_does_not_close_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, exists = written(tmp_path, IDENTITY, f"a-{KEY}"), Path.exists
    ours = written(tmp_path, IDENTITY)

    def refuse(path: Path, **options: bool) -> bool:
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", refuse)
    said: list[str] = []
    assert [folder for folder, _ in identities(tmp_path, said.append)] == [ours]
    assert len(said) == 1 and "Permission denied" in said[0] and closed.name in said[0]


def test_a_cache_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CacheError) as refused:
        list(identities(tmp_path))
    assert str(refused.value) == (
        f"{tmp_path}: expected a folder that can be read, found Permission denied; "
        "check its permissions or choose another --cache-dir"
    )


def test_what_is_new_is_said_against_the_nearest(tmp_path: Path) -> None:
    new = dataclasses.replace(IDENTITY, versions=(("torch", "2.10"),))
    assert what_is_new(tmp_path, new) == []
    written(tmp_path, dataclasses.replace(IDENTITY, weights="cd" * 32, trunk="alexnet"))
    assert what_is_new(tmp_path, new) == [
        "torch 2.9 → 2.10",
        "trunk alexnet → resnet18",
        "weights cdcdcdcd… → abababab…",
    ]
    written(tmp_path, IDENTITY)
    assert what_is_new(tmp_path, new) == ["torch 2.9 → 2.10"]
    written(tmp_path, new)
    assert what_is_new(tmp_path, new) == []
