"""The page as text: hostile names, policy, size, and what it says where things are missing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from written_runs import answers, images, written_run

from tlcache.core.errors import OptionError
from tlcache.networks.scoring import Scored
from tlcache.reports.material import Material
from tlcache.reports.page import MAX_BYTES, ROOMS, Room, check_output, save_page
from tlcache.reports.records import read_record
from tlcache.reports.sections import runs_page

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a\nb\x00\u202e</title>\udcff",
)


def material(tmp_path: Path, count: int = 30, classes: tuple[str, ...] = HOSTILE) -> Material:
    """A run whose images are there, with features."""
    paths = [f"val/{name}/{i}&<b>\n.png" for i in range(count) for name in ["x"]]
    scored = answers(count, len(classes), wrong=count // 5, paths=paths)
    folder = written_run(tmp_path / "<i>run", {"val": scored}, classes, root=tmp_path)
    images(tmp_path, paths[:count])
    features = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    return Material(read_record(folder), scored, np.arange(count), features, tmp_path)


class _Tags(HTMLParser):
    """Every tag with its attributes, and the text outside of tags."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.words.append(data)


def tags(page: bytes, name: str) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in _Tags(page).tags if tag == name]


def words(page: bytes) -> str:
    return " ".join(" ".join(_Tags(page).words).split())


def test_a_digest_says_what_it_is_of(tmp_path: Path) -> None:
    shown = material(tmp_path)
    found = words(runs_page([shown], [], ROOMS[0]))
    digest = shown.record.model.digest[:12]
    assert f"(SHA-256 of the trunk's tensors: {digest}…)" in found


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    page = runs_page([material(tmp_path)], ["<b>sentence</b>"], ROOMS[0])
    text = page.decode("utf-8")
    assert "<script>alert" not in text and "<img src=x" not in text and "<i>run" not in text
    assert len(tags(page, "script")) == 2 and tags(page, "b") == []
    assert all(not name.startswith("on") for _, found in _Tags(page).tags for name in found)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e\ud800-\udfff]", text)
    assert "a\\nb\\x00\\u202e</title>\\udcff" in words(page)
    assert HOSTILE[0] in words(page) and HOSTILE[1] in words(page)
    (title,) = re.findall("<title>(.*?)</title>\n<link", text, re.DOTALL)
    assert html.unescape(title) == "Report of <i>run"


def test_each_name_stands_by_itself_so_that_none_turns_round_what_is_beside_it(
    tmp_path: Path,
) -> None:
    page = runs_page([material(tmp_path, classes=("نمل", "نحل"))], [], ROOMS[0]).decode()
    assert "<bdi>نمل</bdi>" in page
    cells = re.findall(r"<t[hd][^>]*>([^<]*نمل)", page)
    assert cells == []


def test_the_policy_admits_the_pages_own_style_and_script_and_nothing_else(tmp_path: Path) -> None:
    page = runs_page([material(tmp_path)], [], ROOMS[0])
    text = page.decode()
    (policy,) = [m["content"] for m in tags(page, "meta") if "http-equiv" in m]
    assert policy is not None
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy and "http" not in policy
    assert " style=" not in text


def test_nothing_is_named_that_lies_outside_of_the_page(tmp_path: Path) -> None:
    page = runs_page([material(tmp_path)], [], ROOMS[0])
    assert re.findall(rb"https?:|url\(|@import", page) == []
    for tag, attributes in _Tags(page).tags:
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)


def test_every_picture_has_a_text_and_every_drawing_a_name(tmp_path: Path) -> None:
    page = runs_page([material(tmp_path)], [], ROOMS[0])
    assert len(tags(page, "img")) == 6
    assert all("taken for" in str(image["alt"]) for image in tags(page, "img"))
    for drawing in tags(page, "svg"):
        assert {"aria-hidden", "aria-labelledby", "aria-label"} & set(drawing)
    named = {a["id"] for _, a in _Tags(page).tags if "id" in a}
    for _, attributes in _Tags(page).tags:
        assert set((attributes.get("aria-labelledby") or "").split()) <= named
    ids = re.findall(rb' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_what_chose_is_said_beside_the_accuracy(tmp_path: Path) -> None:
    scored = {"train": answers(9, 3, 1), "val": answers(9, 3, 3)}
    by_val = written_run(tmp_path / "a", scored, HOSTILE)
    text = words(runs_page([Material(read_record(by_val))], [], ROOMS[0]))
    assert "0.667 accuracy on val (95% 0.354–0.879; 9 images, selected on val)" in text
    assert "val chose the epoch, so its accuracy flatters and is no result" in text
    with_test = written_run(tmp_path / "b", scored | {"test": answers(9, 3, 0)}, HOSTILE)
    text = words(runs_page([Material(read_record(with_test))], [], ROOMS[0]))
    assert "1.000 accuracy on test (95% 0.701–1.000; 9 images, selected on val)" in text
    assert "test chose nothing: val chose the epoch." in text
    assert "train (trained on)" in text and "test (the result)" in text


def test_a_model_trained_on_all_there_is_has_no_score(tmp_path: Path) -> None:
    kept = written_run(
        tmp_path / "a", {"train": answers(9, 3, 1)}, HOSTILE, pictured="train",
        selected_on="5-fold cross-validation on train", epochs=0,
    )  # fmt: skip
    text = words(runs_page([Material(read_record(kept))], [], ROOMS[0]))
    assert "The model was trained on train, so this is no score of it." in text
    assert "Learning curves" not in text


def test_the_best_settings_of_a_sweep_are_shown_with_their_intervals(tmp_path: Path) -> None:
    good = {"index": 1, "solver": "<lbfgs>", "c": 0.1, "accuracy": 0.9, "loss": 0.3}
    good |= {"accuracy_ci95": [0.7, 0.95], "n": 9, "failed": False}
    failed = {"index": 0, "solver": "sgd", "accuracy": None, "accuracy_ci95": None, "loss": None}
    damaged = [{"index": 2, "accuracy": 0.9, "loss": 0.1, "accuracy_ci95": [0.7]}, 3, {}]
    more = {"best": 1, "ranked": [1, 0, 2, [], 9], "settings": [failed, good, *damaged]}
    folder = written_run(tmp_path / "run", {"val": answers(9, 3, 1)}, HOSTILE, more=more)
    text = words(runs_page([Material(read_record(folder))], [], ROOMS[0]))
    assert "The best of 5 settings" in text
    assert "1 solver <lbfgs>, c 0.1 0.900 (95% 0.700–0.950) 0.300 Learning curves" in text
    assert "val chose the setting" in text


def test_what_could_not_be_had_is_said(tmp_path: Path) -> None:
    whole = material(tmp_path)
    gone = dataclasses.replace(whole, root=tmp_path / "moved", features=None, notes=("No map: x.",))
    text = words(runs_page([gone], [], ROOMS[0]))
    assert (
        "The images are not in" in text
        and "so none can be shown; --data" in text
        and "--data names where they are now" in text
    )
    assert "No map: x." in text and "Map of the features" not in text
    assert tags(runs_page([gone], [], ROOMS[0]), "img") == []
    none = dataclasses.replace(whole, scored=None, notes=("Mistakes are left out: y.",))
    text = words(runs_page([none], [], ROOMS[0]))
    assert "Mistakes are left out: y." in text and "Worst mistakes" not in text


def test_one_image_that_is_gone_is_shown_as_gone(tmp_path: Path) -> None:
    whole = material(tmp_path)
    assert whole.scored is not None
    (tmp_path / whole.scored.paths[0]).unlink()
    (tmp_path / whole.scored.paths[1]).write_bytes(b"no image")
    page = runs_page([whole], [], ROOMS[0])
    assert len(tags(page, "img")) == 4 and words(page).count("not there") == 2


def test_answers_of_other_images_than_the_runs_are_said_to_be(tmp_path: Path) -> None:
    whole = material(tmp_path)
    assert "scored anew" not in words(runs_page([whole], [], ROOMS[0]))
    other = dataclasses.replace(whole, scored=answers(30, 3, wrong=2))
    text = words(runs_page([other], [], ROOMS[0]))
    assert "The images were scored anew, and differ from those that the run was judged on" in text


def test_no_mistake_is_said_too(tmp_path: Path) -> None:
    scored = answers(12, 3, wrong=0)
    folder = written_run(tmp_path / "run", {"val": scored}, HOSTILE)
    text = words(runs_page([Material(read_record(folder), scored)], [], ROOMS[0]))
    assert "None: each of the 12 images of val was put into its class." in text


def test_several_runs_are_compared_first_and_have_a_section_each(tmp_path: Path) -> None:
    one = material(tmp_path)
    other = written_run(tmp_path / "second", {"val": answers(8, 2, 1)}, ("ants", "bees"))
    page = runs_page([one, Material(read_record(other))], ["A is like B."], ROOMS[0])
    text = words(page)
    assert text.index("Side by side") < text.index("A is like B.") < text.index("What was done")
    assert [a["href"] for a in tags(page, "a")] == ["#run-1", "#run-2"]
    assert {"run-1", "run-2"} <= {a["id"] for a in tags(page, "article")}
    headings = [int(tag[1]) for tag, _ in _Tags(page).tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))


def test_many_classes_have_a_picture_and_their_confusions_by_name(tmp_path: Path) -> None:
    names = tuple(f"class {i:04}" for i in range(400))
    scored = answers(800, 400, wrong=100)
    folder = written_run(tmp_path / "run", {"val": scored}, names)
    page = runs_page([Material(read_record(folder), scored)], [], ROOMS[0])
    text = words(page)
    assert "The 300 classes of the lowest F1 among 400." in text
    assert "class 0000 class 0001 1 of 2" in text
    (picture,) = tags(page, "img")
    assert "Confusion matrix of 400 classes" in str(picture["alt"])


def test_a_page_stays_under_three_megabytes_by_showing_less(tmp_path: Path) -> None:
    tried: list[Room] = []

    def render(room: Room) -> bytes:
        tried.append(room)
        return bytes(MAX_BYTES + 1 if room.points > 60 else MAX_BYTES)

    assert save_page(tmp_path / "a.html", render) == MAX_BYTES == 3_000_000
    assert tried == list(ROOMS[:3])
    with pytest.raises(OptionError, match=r"at most 3 MB, found 3\.1 MB .*; report fewer runs"):
        save_page(tmp_path / "b.html", lambda room: bytes(3_100_000))
    assert not (tmp_path / "b.html").exists()


def test_a_large_run_of_noisy_images_fits(tmp_path: Path) -> None:
    from PIL import Image

    paths = [f"{i}.jpg" for i in range(320)]
    random = np.random.default_rng(0)
    for path in paths:
        noise = random.integers(0, 256, (96, 96, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / path, quality=95)
    names = tuple(f"{i} {'é' * 200}" for i in range(500))
    said = answers(320, 500, wrong=200)
    scored = Scored(said.logits, said.labels, paths)
    folder = written_run(tmp_path / "run", {"val": scored}, names, root=tmp_path)
    features = random.normal(size=(320, 5)).astype(np.float32)
    whole = Material(read_record(folder), scored, np.arange(320), features, tmp_path)
    size = save_page(tmp_path / "page.html", lambda room: runs_page([whole] * 3, [], room))
    assert 100_000 < size <= MAX_BYTES
    assert (tmp_path / "page.html").stat().st_size == size


def test_a_place_for_no_page_is_refused_before_any_work(tmp_path: Path) -> None:
    there = tmp_path / "page.html"
    check_output(there, force=False)
    there.write_text("<!DOCTYPE html><p>mine</p>")
    check_output(there, force=True)
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"a model")
    for path, words in (
        (there, "expected a new file, found an earlier page; pass --force"),
        (model, "expected a new file, found a file that is no page; name another file"),
        (tmp_path, "expected a file in a folder that can be written, found a folder"),
        (tmp_path / "no" / "page.html", "found no folder"),
        (there / "page.html", "found no folder"),
    ):
        with pytest.raises(OptionError, match=re.escape(words)):
            check_output(path, force=False)
    with pytest.raises(OptionError, match="no page"):
        check_output(model, force=True)
    assert there.read_text() == "<!DOCTYPE html><p>mine</p>"
