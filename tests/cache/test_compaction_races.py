"""Clean-ups that are killed, and beside readers, writers and one another, at every step."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_cache import (
    IDENTITY,
    NAMED,
    check_clean,
    check_held,
    files,
    joined,
    messy,
    name_rows,
    part,
    rows,
    small_shards,
    store_in,
    sweep,
)
from steps import Interrupt, Kill, Killed, Turns, call_before_each_step

from tlcache.cache.compaction import Shard, _superfluous
from tlcache.cache.shards import pack_shard
from tlcache.cache.store import FeatureStore

STEPS = 25  # a clean-up of an untidy folder takes more


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an identity that is messy."""
    store = store_in(tmp_path_factory.mktemp("messy"))
    messy(store)
    return store.folder


@pytest.fixture
def copies(untidy: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    """Any number of untidy stores, each in a cache of its own."""

    def made() -> Iterator[FeatureStore]:
        for at in range(1000):
            store = store_in(tmp_path / str(at))
            shutil.copytree(untidy, store.folder)
            yield store

    return made()


def interrupted(
    run: Callable[[], object], action: Callable[[], object], at: int
) -> tuple[bool, BaseException | None]:
    """Call ``action`` before step ``at`` of ``run``; whether there was such a step."""
    interrupt, raised = Interrupt(at, action), None
    with pytest.MonkeyPatch.context() as patch:
        call_before_each_step(patch, interrupt)
        try:
            run()
        except KeyboardInterrupt as stop:
            raised = stop
    return interrupt.count >= at, raised


def at_every_step(
    stores: Iterator[FeatureStore],
    run: Callable[[FeatureStore], object],
    action: Callable[[FeatureStore], object],
    steps: int = STEPS,
) -> Iterator[tuple[FeatureStore, bool, BaseException | None]]:
    """Call ``action`` before each step of ``run``, in a store of its own each time.

    Each store, whether there was such a step, and what ended the run; more than so many steps.
    """
    reached, at = True, 0
    while reached:
        store, at = next(stores), at + 1
        whole, other = functools.partial(run, store), functools.partial(action, store)
        reached, raised = interrupted(whole, other, at)
        yield store, reached, raised
    assert at > steps


def check_named(store: FeatureStore) -> None:
    check_held(store, NAMED)


def test_a_kill_at_any_step_loses_no_named_row_and_the_next_run_finishes(
    copies: Iterator[FeatureStore],
) -> None:
    killed, at = True, 0
    while killed:
        store = next(copies)
        with pytest.MonkeyPatch.context() as patch:
            call_before_each_step(patch, Kill(at))
            try:
                sweep(store)
                killed = False
            except Killed:
                at += 1
        check_held(store, NAMED)
        sweep(store)
        check_held(store, NAMED)
        check_clean(store, 20)
    assert at > STEPS


def test_ctrl_c_at_any_step_leaves_every_row_in_sight(copies: Iterator[FeatureStore]) -> None:
    def stop(store: FeatureStore) -> None:
        raise KeyboardInterrupt

    for store, reached, raised in at_every_step(copies, sweep, stop):
        assert (raised is not None) == reached
        check_named(store)


def test_a_run_within_a_run_at_any_step_loses_no_named_row(
    copies: Iterator[FeatureStore],
) -> None:
    def again(store: FeatureStore) -> None:
        sweep(store)
        check_named(store)

    for store, _, _ in at_every_step(copies, sweep, again):
        check_named(store)
        sweep(store)
        check_named(store)
        check_clean(store, 20)


def test_a_run_within_a_run_that_drops_more_loses_no_row_that_both_keep(
    copies: Iterator[FeatureStore],
) -> None:
    fewer = part(NAMED, slice(10))

    def drop(store: FeatureStore) -> None:
        name_rows(store, fewer.images)
        sweep(store)
        check_held(store, fewer)

    for store, reached, _ in at_every_step(copies, sweep, drop):
        check_held(store, fewer)
        sweep(store)
        check_held(store, fewer)
        check_clean(store, 10 if reached else 20)


def test_a_reader_at_any_step_finds_every_named_row(copies: Iterator[FeatureStore]) -> None:
    assert list(at_every_step(copies, sweep, check_named))


def test_a_run_at_any_step_of_a_reader_takes_no_named_row_from_it(
    copies: Iterator[FeatureStore],
) -> None:
    assert list(at_every_step(copies, check_named, sweep, steps=8))


MORE = joined(rows(2, 7), rows(2, 11))


def embed(store: FeatureStore) -> None:
    """What ``tlcache embed`` does: name the rows, look for them, make those that lack."""
    name_rows(store, MORE.images, "more")
    lacking = np.flatnonzero(~store.has(MORE.images, MORE.views))
    if len(lacking):
        store.commit(part(MORE, lacking))


def test_an_embed_at_any_step_that_finds_unnamed_rows_keeps_them(
    copies: Iterator[FeatureStore],
) -> None:
    for store, reached, _ in at_every_step(copies, sweep, embed):
        check_held(store, joined(NAMED, MORE) if reached else NAMED)


def test_a_run_at_any_step_of_an_embed_keeps_what_it_found_and_made(
    copies: Iterator[FeatureStore],
) -> None:
    for store, _, _ in at_every_step(copies, embed, sweep, steps=8):
        check_held(store, joined(NAMED, MORE))


@pytest.mark.parametrize("seed", range(30))
def test_runs_readers_and_an_embed_that_take_turns_lose_nothing(
    copies: Iterator[FeatureStore], seed: int
) -> None:
    store = next(copies)

    def read() -> None:
        for _ in range(2):
            check_held(store, NAMED)

    def clean() -> None:
        sweep(store)

    turns = Turns([clean, clean, read, lambda: embed(store)], seed)
    with pytest.MonkeyPatch.context() as patch:
        call_before_each_step(patch, turns)
        turns.run()
    for _ in range(2):
        check_held(store, joined(NAMED, MORE))
        sweep(store)
    check_clean(store, 24)


def test_a_reader_at_any_step_takes_the_same_one_of_copies_that_differ(tmp_path: Path) -> None:
    one = rows(3)

    def differing() -> Iterator[FeatureStore]:
        for at in range(1000):
            store = store_in(tmp_path / str(at))
            for step in range(5):
                store.commit(dataclasses.replace(one, features=one.features + step))
            name_rows(store, one.images)
            yield store

    def check_first(store: FeatureStore) -> None:
        check_held(store, dataclasses.replace(one, features=one.features + first))

    names = [
        pack_shard(dataclasses.replace(one, features=one.features + i), IDENTITY)[0]
        for i in range(5)
    ]
    first = names.index(min(names))
    for store, _, _ in at_every_step(differing(), sweep, check_first, steps=1):
        check_first(store)


def test_a_shard_that_somebody_deletes_takes_no_copy_with_it(
    copies: Iterator[FeatureStore],
) -> None:
    store, one = next(copies), rows(3)
    names = [
        store.commit(dataclasses.replace(one, features=one.features + step)) for step in (0, 1)
    ]
    name_rows(store, one.images, "more")
    readings = len(list(min(names).parent.iterdir()))
    reached, _ = interrupted(lambda: sweep(store), min(names).unlink, 1 + readings + 2)
    assert reached and store.has(one.images, one.views).all()


def test_ctrl_c_while_shards_are_hidden_shows_them_again(
    copies: Iterator[FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, looks = next(copies), list[int]()

    def stop_the_second_time(*arguments: Any) -> list[Shard]:
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return _superfluous(*arguments)

    monkeypatch.setattr("tlcache.cache.compaction._superfluous", stop_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        sweep(store)
    assert not [name for name in files(store) if name.endswith(".hidden")]
    assert store.has(rows(2, 7).images, rows(2, 7).views).all()


def test_rows_that_were_named_before_the_deletion_began_are_in_sight_all_the_time(
    copies: Iterator[FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, more, begun = next(copies), rows(2, 7), False
    holder = store.commit(more)  # it is there already, so this only says where

    def look(step: str) -> None:
        nonlocal begun
        if step == "_superfluous" and not begun:
            begun = True
            name_rows(store, more.images, "more")
        elif step in ("_move", "delete"):
            assert holder.exists()

    call_before_each_step(monkeypatch, look)
    sweep(store)
    assert begun
    check_held(store, more)
