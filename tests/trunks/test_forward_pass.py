"""The pass: its batches, its threads, its memory, and what becomes of each image."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from isolated import isolated
from PIL import Image
from small_trunk import TRANSFORM, small_trunk
from trial_networks import TRANSFORMS, Watched, features_of, image_jobs

import tlcache.core.files
import tlcache.trunks.forward_pass
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply, cropped, normalisation
from tlcache.trunks.engines import BOUNDS, Engine, make_engine
from tlcache.trunks.forward_pass import Job, Made, run_pass

CPU = torch.device("cpu")
TASKS = Path("/proc/self/task")  # a folder for each thread


def expected_of(job: Job) -> np.ndarray:
    image = decode(job.path.read_bytes(), job.path)
    crops = [apply(image, TRANSFORMS[which], job.digest, view) for which, view in job.crops]
    return features_of(np.ascontiguousarray(np.stack(crops).transpose(0, 2, 3, 1)))


def check(made: Sequence[Made], jobs: Sequence[Job]) -> None:
    assert [result.job for result in made] == list(jobs)
    for result in made:
        assert result.reason == ""
        np.testing.assert_allclose(result.features, expected_of(result.job), rtol=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_job_is_done_in_order_whatever_the_batches_and_threads(
    tmp_path: Path, workers: int, batch_size: int
) -> None:
    jobs = image_jobs(tmp_path / "one", 9) + image_jobs(tmp_path / "more", 3, [(0, 0), (1, 2)])
    watched = Watched()
    check(
        list(run_pass(watched.engine, jobs, TRANSFORMS, workers=workers, batch_size=batch_size)),
        jobs,
    )
    assert sum(watched.sizes) == 15 and max(watched.sizes) <= batch_size


def test_crops_of_several_images_share_a_batch(tmp_path: Path) -> None:
    watched, jobs = Watched(), image_jobs(tmp_path, 5, [(0, 0), (1, 0)])
    check(list(run_pass(watched.engine, jobs, TRANSFORMS, workers=1, batch_size=4)), jobs)
    assert watched.sizes == [4, 4, 2]


def test_an_engine_that_normalises_itself_gets_the_bytes_of_the_crops(tmp_path: Path) -> None:
    jobs = image_jobs(tmp_path, 5, [(0, 0), (1, 0), (1, 1)])
    made = list(run_pass(Watched(raw=True).engine, jobs, TRANSFORMS, workers=2, batch_size=4))
    table = normalisation(TRANSFORM)
    for result in made:
        image = decode(result.job.path.read_bytes(), result.job.path)
        for (which, view), row in zip(result.job.crops, result.features, strict=True):
            pixels = cropped(image, TRANSFORMS[which], result.job.digest, view)
            np.testing.assert_array_equal(row, features_of(pixels[None])[0])
            seen = apply(image, TRANSFORMS[which], result.job.digest, view)
            np.testing.assert_array_equal(
                np.stack([table[c][pixels[..., c]] for c in range(3)]), seen
            )


def test_an_image_of_many_views_is_decoded_once_and_takes_several_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = [(0, 0), *((1, view) for view in range(10))]
    jobs, decoded = image_jobs(tmp_path, 3, crops), list[object]()

    def counted(data: bytes, where: object) -> np.ndarray:
        decoded.append(where)
        return decode(data, where)

    monkeypatch.setattr(tlcache.trunks.forward_pass, "decode", counted)
    watched = Watched()
    check(list(run_pass(watched.engine, jobs, TRANSFORMS, workers=2, batch_size=4)), jobs)
    assert sorted(map(str, decoded)) == sorted(str(job.path) for job in jobs)
    assert sorted(watched.sizes) == [3, 3, 3, 4, 4, 4, 4, 4, 4]


def test_each_thread_has_a_run_of_its_own_made_before_there_are_threads(tmp_path: Path) -> None:
    watched, jobs = Watched(), image_jobs(tmp_path, 40)
    check(list(run_pass(watched.engine, jobs, TRANSFORMS, workers=3, batch_size=1)), jobs)
    assert watched.made_by == [threading.get_ident()] * 3
    pairs = {(run, thread) for run, thread, _ in watched.calls}
    assert len(pairs) == len({run for run, _ in pairs}) == len({thread for _, thread in pairs})
    assert threading.get_ident() not in {thread for _, thread in pairs}


def test_what_cannot_be_read_says_why_and_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.core.files, "PAUSES", (0, 0))
    jobs = image_jobs(tmp_path, 8)
    paths = [Path(str(job.path)) for job in jobs]
    paths[1].write_bytes(b"no image")
    jobs[1] = Job(paths[1], b"", jobs[1].crops)
    paths[3].unlink()
    paths[5].write_bytes(paths[0].read_bytes())
    thin = tmp_path / "thin.png"
    Image.new("RGB", (1, 65000)).save(thin)
    jobs.append(Job(thin, b"", ((0, 0),)))
    huge = [dataclasses.replace(TRANSFORM, resize=4096)]
    made = list(run_pass(Watched().engine, jobs, huge, workers=2, batch_size=3))
    assert [result.job for result in made] == jobs
    assert {at: result.reason for at, result in enumerate(made) if result.reason} == {
        1: "expected an image, found bytes that are no image",
        3: "No such file or directory",
        5: "other bytes than were digested before the pass",
        8: "expected a shape that resizes to at most 178,956,970 pixels, found 4096 x 266240000",
    }
    assert all(result.features.size == 0 for result in made if result.reason)
    assert all(result.features.shape == (1, 2) for result in made if not result.reason)


def test_without_a_digest_whatever_the_file_holds_is_taken(tmp_path: Path) -> None:
    (job,) = image_jobs(tmp_path, 1)
    loose = Job(job.path, b"", job.crops)
    (made,) = run_pass(Watched().engine, [loose], TRANSFORMS, workers=1, batch_size=1)
    np.testing.assert_array_equal(made.features, expected_of(job))


def test_no_jobs_are_no_work() -> None:
    watched = Watched()
    assert list(run_pass(watched.engine, [], TRANSFORMS, workers=2, batch_size=3)) == []
    assert watched.calls == []


def test_with_idle_results_come_as_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.trunks.forward_pass, "IDLE_SECONDS", 0.02)
    jobs, go, idled = image_jobs(tmp_path, 6), threading.Event(), list[int]()

    def slow(data: bytes, where: object) -> np.ndarray:
        if where == jobs[0].path:
            assert go.wait(10)
        return decode(data, where)

    def idle() -> None:
        idled.append(1)
        go.set()

    monkeypatch.setattr(tlcache.trunks.forward_pass, "decode", slow)
    made = list(run_pass(Watched().engine, jobs, TRANSFORMS, workers=2, batch_size=1, idle=idle))
    assert [result.job for result in made][-1] == jobs[0] and len(made) == 6
    assert idled, "nothing was ready for a while"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_stay_within_the_bound_whatever_batches_and_threads(
    tmp_path: Path, precision: str
) -> None:
    jobs = image_jobs(tmp_path, 11, [(0, 0), (1, 3)])
    engine = make_engine(small_trunk().module, Transform(crop=32), precision=precision, device=CPU)
    rows = [
        np.concatenate(
            [m.features for m in run_pass(engine, jobs, TRANSFORMS, workers=w, batch_size=b)]
        )
        for w, b in ((1, 22), (1, 1), (2, 4), (3, 8))
    ]
    largest = np.abs(rows[0]).max()
    for others in rows[1:]:
        assert np.abs(others - rows[0]).max() <= BOUNDS[precision] / 2 * largest


@pytest.mark.parametrize("idle", [None, lambda: None])
def test_no_more_jobs_are_taken_than_are_soon_done(tmp_path: Path, idle: None) -> None:
    (job,), asked = image_jobs(tmp_path, 1), list[Job]()

    def endless() -> Iterator[Job]:
        while True:
            asked.append(job)
            yield job

    workers, batch_size, ahead = 2, 3, list[int]()
    made = run_pass(
        Watched().engine, endless(), TRANSFORMS, workers=workers, batch_size=batch_size, idle=idle
    )
    for done, _ in enumerate(itertools.islice(made, 300), 1):
        ahead.append(len(asked) - done)
    made.close()
    assert max(ahead) <= (4 * workers + 1) * batch_size


def test_pixels_are_let_go_as_soon_as_their_features_are_there(tmp_path: Path) -> None:
    jobs, alive, most = image_jobs(tmp_path, 60), list[weakref.ref[np.ndarray]](), 0
    lock = threading.Lock()

    def run(pixels: np.ndarray) -> np.ndarray:
        nonlocal most
        with lock:
            alive.append(weakref.ref(pixels))
            most = max(most, sum(ref() is not None for ref in alive))
        return features_of(pixels)

    engine = Engine("counting", lambda: run)
    assert len(list(run_pass(engine, jobs, TRANSFORMS, workers=2, batch_size=2))) == 60
    gc.collect()
    assert len(alive) == 30 and most <= 4, "one batch a thread, and one that is being dropped"
    assert not any(ref() is not None for ref in alive)


BACKENDS: Any = torch.backends
NEW_WORDS = hasattr(BACKENDS, "fp32_precision")
PLACES = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.mkldnn.matmul) if NEW_WORDS else ()


def settings() -> list[object]:
    if NEW_WORDS:
        return [torch.get_num_threads(), *(place.fp32_precision for place in PLACES)]
    products = torch.get_float32_matmul_precision()
    return [torch.get_num_threads(), torch.backends.cudnn.allow_tf32, products]


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Whatever a test says by torch's old words, in the end they are as they were."""
    threads, convolutions = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def exact(found: Sequence[object]) -> bool:
    return found[1:] == (["ieee"] * len(PLACES) if NEW_WORDS else [False, "highest"])


def end(how: str, jobs: Sequence[Job]) -> None:
    """A pass that ends in one of four ways."""

    def broken(pixels: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("in a thread")

    def running_out() -> Iterator[Job]:
        yield from jobs
        raise ZeroDivisionError("of jobs")

    engine = Engine("broken", lambda: broken) if how == "fails" else Watched().engine
    todo = running_out() if how == "runs out" else iter(jobs)
    made = run_pass(engine, todo, TRANSFORMS, workers=2, batch_size=1)
    with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt):
        next(made)
        assert exact(settings())
        if how == "is closed":
            made.close()
        elif how == "is interrupted":
            made.throw(KeyboardInterrupt)
        list(made)


@pytest.mark.parametrize(
    "how", ["goes through", "fails", "runs out", "is closed", "is interrupted"]
)
def test_however_a_pass_ends_no_thread_and_no_setting_is_left(tmp_path: Path, how: str) -> None:
    jobs, threads = image_jobs(tmp_path, 12), threading.active_count()
    with restored():
        torch.set_num_threads(3)
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("medium")  # bfloat16, on a CPU too
        before = settings()
        end(how, jobs)
        assert settings() == before
        assert torch.backends.cudnn.allow_tf32, "and the old words can be asked again"
        assert torch.get_float32_matmul_precision() == "medium"
        there = list[int]()
        thread = threading.Thread(target=lambda: there.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert there == [3], "so has a thread that is new"
    assert threading.active_count() == threads


def test_the_last_of_two_passes_at_once_puts_back_what_the_first_found(tmp_path: Path) -> None:
    jobs = image_jobs(tmp_path, 8)
    with restored():
        torch.set_float32_matmul_precision("high")
        before = settings()
        first, second = (
            run_pass(Watched().engine, jobs, TRANSFORMS, workers=1, batch_size=1) for _ in "12"
        )
        next(first), next(second)
        first.close()
        assert exact(settings()), "the second still computes"
        second.close()
        assert settings() == before


@pytest.mark.skipif(not NEW_WORDS, reason="this torch has no such words")
@pytest.mark.parametrize("word", ["ieee", "tf32", "none"])
def test_a_pass_goes_through_whatever_the_new_words_of_precision_say(
    tmp_path: Path, word: str
) -> None:
    every = (BACKENDS, BACKENDS.cudnn, BACKENDS.mkldnn, *PLACES)
    before = [place.fp32_precision for place in every]
    try:
        BACKENDS.fp32_precision = word
        BACKENDS.mkldnn.matmul.fp32_precision = "bf16"
        said = settings()
        made = run_pass(
            Watched().engine, image_jobs(tmp_path, 3), TRANSFORMS, workers=1, batch_size=1
        )
        next(made)
        assert exact(settings())
        made.close()
        assert settings() == said
        BACKENDS.fp32_precision = "ieee"
        assert BACKENDS.cuda.matmul.fp32_precision == "ieee", "what was unset still is"
    finally:
        for place, value in zip(every, before, strict=True):
            place.fp32_precision = value


def test_an_error_in_a_thread_is_the_passs_own(tmp_path: Path) -> None:
    def broken(pixels: np.ndarray) -> np.ndarray:
        raise MemoryError("no room")

    made = run_pass(
        Engine("broken", lambda: broken),
        image_jobs(tmp_path, 12),
        TRANSFORMS,
        workers=2,
        batch_size=1,
    )
    with pytest.raises(MemoryError, match="no room"):
        list(made)


def threads_during_a_pass(folder: str, workers: int) -> tuple[set[int], int]:
    """torch's threads as each worker sees them, and how many the process has more than before."""
    torch.set_num_threads(4)
    engine = make_engine(small_trunk().module, Transform(crop=32), device=CPU)
    run, seen = engine.new_run(), set[tuple[int, int]]()

    def watched(pixels: np.ndarray) -> np.ndarray:
        features = run(pixels)
        seen.add((torch.get_num_threads(), len(list(TASKS.iterdir()))))
        return features

    before = len(list(TASKS.iterdir()))
    jobs = image_jobs(Path(folder), 30)
    made = run_pass(
        Engine("torch", lambda: watched), jobs, TRANSFORMS, workers=workers, batch_size=4
    )
    assert len(list(made)) == 30
    return {torchs for torchs, _ in seen}, max(there for _, there in seen) - before


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts threads as Linux does")
@pytest.mark.parametrize("workers", [1, 2])
def test_there_are_no_more_threads_than_workers(tmp_path: Path, workers: int) -> None:
    ended = isolated(threads_during_a_pass, str(tmp_path), workers, limit=30)
    assert ended.code == 0, ended.error
    torchs, more = ended.value
    assert torchs == {1}
    assert 0 < more <= workers + 1, "torch or numba has one that sleeps"
