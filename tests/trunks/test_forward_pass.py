"""The pass: which batches it makes, in which threads, and what becomes of each image."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_trunk import TRANSFORM, small_trunk
from trial_networks import TRANSFORMS, Watched, features_of, image_jobs

import tlcache.trunks.forward_pass
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply, cropped, normalisation
from tlcache.trunks.engines import BOUNDS, make_engine
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


def test_what_cannot_be_read_says_why_and_holds_up_nothing_else(tmp_path: Path) -> None:
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
        5: "expected the bytes that were digested before the pass, found other bytes",
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
