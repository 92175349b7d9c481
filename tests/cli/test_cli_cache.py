"""What a user of `tlcache cache` meets: tables, JSON, exit codes, words."""

from __future__ import annotations

import functools
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from called import Call, failed, tlcache
from small_cache import (
    IDENTITY,
    NAMED,
    TRAIN,
    check_held,
    files,
    flip,
    messy,
    name_rows,
    rows,
    small_cache,
    small_shards,
    snapshot,
    store_in,
)
from typer.testing import Result

from tlcache.cache.identity import FILE
from tlcache.cache.snapshots import save_snapshot
from tlcache.cache.store import FeatureStore, open_store
from tlcache.cli.output import count, moment, size
from tlcache.data.folders import ImageDataset
from tlcache.features.read import open_snapshot

NAME = f"resnet18-imagenet1k-eval-{IDENTITY.key[:8]}"
TRAIN_NAME = f"resnet18-imagenet1k-train-{TRAIN.key[:8]}"
gc = functools.partial(tlcache, "cache", "gc")


@pytest.fixture
def cache(call: Call) -> Call:
    """Run `tlcache cache` where ./cache is a small sound cache."""
    small_cache(Path("cache"))
    return functools.partial(call, "cache")


def refused(result: Result, *words: str) -> None:
    """Nothing but one clear line on stderr, which holds the words."""
    failed(result, *words)
    assert result.stderr.count("\n") == 1


def said(result: Result) -> list[str]:
    """The lines of a command that went well, and had nothing to say on stderr."""
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_ls_has_a_row_for_each_identity_and_a_total(cache: Call) -> None:
    head, plain, augmented, total = said(cache("ls"))
    assert head.split() == [
        *("name", "trunk", "transform", "dtype", "rows", "shards", "snapshots", "size", "changed")
    ]
    assert plain.split()[:7] == [NAME, "resnet18", "eval", "float32", "10", "2", "1"]
    assert augmented.split()[:7] == [TRAIN_NAME, "resnet18", "train", "float32", "12", "2", "0"]
    assert plain.index(" 10 ") == augmented.index(" 12 ")  # numbers stand one below the other
    assert total.startswith("2 identities, 22 rows, ")


def test_ls_as_json_is_exact(cache: Call) -> None:
    result = json.loads(cache("ls", "--json").stdout)
    assert result["cache"] == "cache"
    plain, augmented = result["identities"]
    every = [p for p in Path("cache", NAME).rglob("*") if p.is_file()]
    assert plain == {
        "name": NAME,
        "key": IDENTITY.key,
        "trunk": "resnet18",
        "transform": "eval",
        "dtype": "float32",
        "rows": 10,
        "shards": 2,
        "uncounted_shards": 0,
        "snapshots": 1,
        "bytes": sum(p.stat().st_size for p in every),
        "changed_ns": max(p.stat().st_mtime_ns for p in every),
        "faults": [],
    }
    assert (augmented["transform"], augmented["rows"]) == ("train", 12)


def test_ls_lists_what_cannot_be_used_with_the_reason(cache: Call) -> None:
    Path("cache", NAME, FILE).unlink()
    Path("cache", TRAIN_NAME, "shards", "odd.h5").write_bytes(b"odd")
    Path("cache/begun/shards").mkdir(parents=True)
    lines = said(cache("ls"))
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["begun", "-"],
        [NAME, "-"],
        [TRAIN_NAME, "resnet18"],
    ]
    begun, lost, odd = lines[5:]
    assert begun.startswith("cache/begun: empty")
    assert lost.startswith("cannot be used: ") and "identity.json" in lost
    assert "1 shard whose rows could not be counted" in odd
    faults = [i["faults"] for i in json.loads(cache("ls", "--json").stdout)["identities"]]
    assert [len(f) for f in faults] == [0, 1, 0]
    assert faults[1][0].keys() == {"file", "expected", "found", "remedy"}


def test_ls_of_an_empty_and_of_no_cache(cache: Call) -> None:
    Path("empty").mkdir()
    assert said(cache("ls", "--cache-dir", "empty")) == ["empty: no features in it"]
    refused(cache("ls", "--cache-dir", "nowhere"), "nowhere", "nothing there", "tlcache embed")


def test_a_table_is_whole_and_without_codes_where_no_person_looks(
    cache: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    long = Path("cache", "x" * 120 + IDENTITY.key[:8])
    Path("cache", NAME).rename(long)
    lines = said(cache("ls"))
    assert long.name in lines[2] and "\x1b" not in "".join(lines)


def on_a_terminal(*command: str, columns: int) -> str:
    """What a command writes to a terminal."""
    main, sub = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    code = "import tlcache.cli as cli; cli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "cache", *command], stdout=sub, stderr=sub, env=environment
    )
    os.close(sub)
    written = b""
    try:
        while part := os.read(main, 1 << 16):
            written += part
    except OSError:  # Linux's way to say that nobody has the other end any more
        pass
    os.close(main)
    assert process.wait() == 0, written.decode()
    return written.decode()


def test_a_table_is_drawn_on_a_terminal_where_it_fits(cache: Call) -> None:
    wide, narrow = (on_a_terminal("ls", columns=width) for width in (200, 60))
    assert "───" in wide and "\x1b[" in wide
    assert "───" not in narrow
    for text in (wide, narrow):
        assert NAME in text and TRAIN_NAME in text
    verified = on_a_terminal("verify", columns=80)
    assert "verifying" in verified and "all sound" in verified


def test_info_tells_all_of_an_identity(cache: Call) -> None:
    lines = said(cache("info", IDENTITY.key[:6]))
    told = [tuple(line.split(None, 1)) for line in lines if line]
    for expected in [
        ("key", IDENTITY.key),
        ("weights", f"SHA-256 of the tensors: {'ab' * 32}"),
        ("features", "5 numbers each, head-input"),
        ("dtype", "float32"),
        ("versions", "torch 2.9"),
        ("rows", "10 of 10 images"),
        ("shards", "2"),
        ("snapshots", "1"),
        ("root", "/data/pets"),
        ("images", "10: 6 train, 4 val"),
        ("classes", "2: cats, dogs"),
        ("unreadable", "0"),
        ("views", "2 of each training image"),
        ("rows", "22 of 22 are cached"),
    ]:
        assert expected in told
    assert any(
        line.startswith("transform") and "eval: resize 256, crop 224" in line for line in lines
    )


def test_info_as_json_is_exact(cache: Call) -> None:
    open_store(Path("cache"), IDENTITY, "w").commit(rows(3, seed=8))
    Path("cache", NAME, "shards", "x.h5.bad").write_text("")
    shutil.rmtree(Path("cache", TRAIN_NAME))
    result = json.loads(cache("info", NAME, "--json").stdout)
    assert result["identity"] == IDENTITY.describe()
    exact = {"rows": 13, "images": 13, "duplicate_rows": 0, "shards": 3, "set_aside": 1}
    assert {name: result[name] for name in exact} == exact
    assert result["snapshots"] == [
        {
            "file": f"cache/{NAME}/snapshots/pets.h5",
            "dataset": "pets",
            "root": "/data/pets",
            "images": 10,
            "splits": {"train": 6, "val": 4},
            "classes": ["cats", "dogs"],
            "unreadable": 0,
            "views": 2,
            "taken_ns": 10**18,
            "rows": 22,
            "rows_cached": 10,
        }
    ]


def test_info_tells_of_damage_and_moves_nothing(cache: Call) -> None:
    shard = sorted(Path("cache", NAME, "shards").iterdir())[0]
    flip(shard)
    lines = said(cache("info", NAME))
    assert lines[-1].startswith(f"fault: {shard}: expected bytes whose SHA-256 is its name")
    assert shard.exists()


def test_info_of_an_identity_that_does_not_tell(cache: Call) -> None:
    Path("cache", NAME, FILE).unlink()
    refused(cache("info", NAME), FILE, "no such file")


def test_an_unknown_and_an_ambiguous_identity(cache: Call) -> None:
    refused(cache("info", NAME[:-1] + "x"), "none such", f"did you mean {NAME}")
    shutil.copytree(Path("cache", NAME), Path("cache", f"copy-{IDENTITY.key[:8]}"))
    refused(cache("info", IDENTITY.key[:8]), NAME, f"copy-{IDENTITY.key[:8]}", "more digits")


def test_diff_tells_in_words_what_differs(cache: Call) -> None:
    lines = said(cache("diff", NAME, TRAIN.key[:4]))
    assert "kind eval → train" in lines and "resize 256 → none" in lines
    result = json.loads(cache("diff", NAME, TRAIN_NAME, "--json").stdout)
    assert result == {"a": IDENTITY.key, "b": TRAIN.key, "differences": lines}


def test_diff_of_folders_of_two_caches(cache: Call) -> None:
    shutil.copytree("cache", "other")
    paths = (f"cache/{NAME}", f"other/{NAME}")
    assert said(cache("diff", *paths, "--cache-dir", "nowhere")) == ["no difference"]
    assert json.loads(cache("diff", *paths, "--json").stdout)["differences"] == []


def test_verify_says_that_all_is_sound(cache: Call) -> None:
    assert said(cache("verify")) == ["4 shards, 22 rows, 1 snapshot: all sound"]
    assert said(cache("verify", "--quiet")) == []
    assert json.loads(cache("verify", "--json").stdout)["sound"] is True


def test_verify_counts_what_is_no_fault(cache: Call) -> None:
    store = open_store(Path("cache"), IDENTITY, "w")
    store.commit(rows(1, seed=8))
    (store.folder / "shards" / "x.h5.bad").write_text("")
    (line,) = said(cache("verify"))
    assert "5 shards, 23 rows, 1 snapshot: all sound" in line
    assert "1 row that no snapshot names, 1 file set aside (.bad)" in line


def test_verify_names_each_fault_and_exits_with_1(cache: Call) -> None:
    shard = sorted(Path("cache", NAME, "shards").iterdir())[0]
    flip(shard)
    result = cache("verify")
    refused(result, "cache: ", f"2 faults, the first in {shard}")
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{shard}: expected bytes whose SHA-256 is its name, found other bytes")
    assert "missing (of train/cats/" in second
    refused(cache("verify", "--quiet"), "2 faults")
    result = cache("verify", IDENTITY.key[:8], "--json")
    refused(result, "2 faults")
    found = json.loads(result.stdout)
    assert (found["sound"], found["shards"], found["findings"][0]["file"]) == (False, 4, str(shard))


def test_verify_of_an_empty_and_of_no_cache(cache: Call) -> None:
    Path("empty").mkdir()
    (line,) = said(cache("verify", "--cache-dir", "empty"))
    assert line == "empty: no features in it to verify"
    refused(cache("verify", "--cache-dir", "nowhere"), "nowhere", "nothing there")


def test_names_of_any_bytes_reach_neither_a_terminal_nor_break_the_json(cache: Call) -> None:
    store = open_store(Path("cache"), IDENTITY, "w")
    taken = snapshot("pets", views=0)
    odd = ImageDataset(**{**vars(taken.dataset), "classes": ("\x1b[31mcats", "d\udc80gs")})
    save_snapshot(store.snapshot_path("pets"), type(taken)(**{**vars(taken), "dataset": odd}))
    (store.snapshots / os.fsdecode(b"b\xffd\x1b[31m.h5")).write_bytes(b"junk")
    for command in (("info", NAME), ("verify",), ("ls",)):
        assert "\x1b" not in cache(*command).stdout
        assert json.loads(cache(*command, "--json").stdout)
    found = json.loads(cache("verify", "--json").stdout)["findings"]
    assert os.fsencode(found[0]["file"]).endswith(b"b\xffd\x1b[31m.h5")


def test_the_words_of_cells() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536, 5 << 30, 3 << 50)] == [
        *("0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB", "3,072.0 TiB")
    ]
    assert [count(n, "row that counts") for n in (0, 1, 2000)] == [
        *("0 rows that counts", "1 row that counts", "2,000 rows that counts")
    ]
    assert count(2, "identity") == "2 identities"
    assert moment(10**27) == f"{10**18} s after 1970"
    assert len(moment(10**18)) == len("2001-09-09 01:46")


def test_looking_after_a_cache_imports_no_torch(tmp_path: Path) -> None:
    small_cache(tmp_path / "cache")
    code = (
        "import sys, tlcache.cli\n"
        "try: tlcache.cli.app(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'matplotlib'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    for command in ("ls", "verify"):
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code, "cache", command],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )


def test_names_are_public() -> None:
    import tlcache

    assert tlcache.list_cache.__module__ == "tlcache.cache.contents"
    assert tlcache.verify_cache.__module__ == "tlcache.cache.verify"
    assert {"list_cache", "verify_cache"} <= set(tlcache.__all__)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """The only one of ./cache, which needs a clean-up."""
    monkeypatch.chdir(tmp_path)
    store = store_in(Path("cache"))
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        messy(store)
    (store.folder / "shards" / "x.h5.bad").write_bytes(b"12345")
    return store


def test_the_json_says_what_was_done(store: FeatureStore) -> None:
    foretold, done = (json.loads(gc(*a, "--json").stdout) for a in (["--dry-run"], []))
    shards = list((store.folder / "shards").iterdir())
    assert len(shards) == 1
    values = done["identities"][0]
    assert values.pop("bytes_before") > values.pop("bytes_after") == shards[0].stat().st_size
    assert values == {
        "folder": f"cache/{NAME}",
        "rows": 28,
        "unnamed": 3,
        "duplicate": 5,
        "shards_before": 7,
        "shards_after": 1,
        "set_aside": 1,
        "temporary": 0,
        "kept_because": "",
    }
    assert foretold.pop("dry_run") and not done.pop("dry_run")
    for name in ("bytes_before", "bytes_after"):
        foretold["identities"][0].pop(name)
    assert foretold == done


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(store: FeatureStore) -> None:
    before = files(store)
    result = gc("--dry-run")
    titles, line, last = result.stdout.splitlines()
    assert " ".join(titles.split()) == "name rows unnamed duplicate shards size other files"
    assert line.startswith(f"{NAME}    28        3          5   7 → 1  ") and line.endswith(" 1")
    assert last.endswith(" KiB would be freed; nothing was changed")
    assert files(store) == before


def test_without_it_the_same_is_done(store: FeatureStore) -> None:
    foretold, done = gc("--dry-run").stdout.splitlines(), gc().stdout.splitlines()
    assert done[:2] == foretold[:2]
    assert foretold[2] == done[2].replace("freed", "would be freed; nothing was changed")
    check_held(store, NAMED)


def test_a_snapshot_reads_the_same_to_the_bit_and_all_is_sound(store: FeatureStore) -> None:
    path = store.snapshot_path("photos")
    before = open_snapshot(path).read()
    assert gc("--quiet").output == ""
    after = open_snapshot(path).read()
    np.testing.assert_array_equal(before.features, after.features)
    np.testing.assert_array_equal(before.labels, after.labels)
    assert before.paths == after.paths
    verified = tlcache("cache", "verify")
    assert verified.exit_code == 0
    assert verified.stdout == "1 shard, 20 rows, 1 snapshot: all sound\n"


def test_why_every_row_is_kept_and_what_is_damaged_is_said(store: FeatureStore) -> None:
    path = name_rows(store, rows(1).images, "bees")
    flip(path)
    shard = store.commit(rows(2, 40))
    flip(shard)
    result = gc()
    assert result.exit_code == 0
    damaged, kept = result.stderr.splitlines()
    assert damaged.startswith(f"left alone: {shard}: expected bytes whose SHA-256 is its name")
    assert kept.startswith(f"{NAME}: every row counts as named: {path}: expected a snapshot")


def test_identities_can_be_named(store: FeatureStore) -> None:
    for name in (NAME, f"cache/{NAME}", IDENTITY.key[:6]):
        assert json.loads(gc(name, "--json").stdout)["identities"][0]["folder"] == (f"cache/{NAME}")
    refused = gc("nothing")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: nothing: expected the name, the path or the key of")


def test_a_cache_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = gc("--cache-dir", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'none'}: expected a cache folder that can be read" in result.stderr


def test_files_beside_the_memos_of_weights_are_said(store: FeatureStore) -> None:
    Path("cache/weights").mkdir()
    Path("cache/weights/x.json.bad").write_bytes(b"12345")
    assert "weights: 1 other file, 5 B\n" in gc("--dry-run").stdout
    assert Path("cache/weights/x.json.bad").exists()
    gc()
    assert not Path("cache/weights/x.json.bad").exists()


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    result = gc()
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: cache/{NAME}/shards/x.h5.bad: expected a cache that can be written, "
        "found Read-only file system; "
        "check its permissions; every row that a snapshot names is kept\n"
    )
    check_held(store, NAMED)
