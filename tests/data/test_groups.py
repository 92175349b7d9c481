from __future__ import annotations

from pathlib import Path

import pytest

from tlcache.core.errors import TlcacheError
from tlcache.data.groups import below_classes, groups_from_csv, groups_from_pattern

PATHS = ["train/ants/a_1.jpg", "train/ants/a_2.jpg", "val/bees/b_1.jpg"]


def table(folder: Path, text: str | bytes) -> Path:
    file = folder / "groups.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def full(*more: str, header: str = "path,group") -> str:
    rows = [header, *(f"{path},{path[-7]}" for path in PATHS), *more]
    return "\n".join(rows) + "\n"


def test_a_table_gives_each_image_its_group(tmp_path: Path) -> None:
    assert groups_from_csv(table(tmp_path, full()), PATHS) == ["a", "a", "b"]


def test_a_table_may_have_other_columns_rows_spaces_and_blank_lines(tmp_path: Path) -> None:
    text = "camera, group ,path\r\n\r\n"
    text += "".join(
        f'x, "s,1" , {path}\r\n'.replace(' "', '"').replace('" ,', '",') for path in PATHS
    )
    file = table(tmp_path, text + "y,s2,test/ants/other.jpg\r\n")
    assert groups_from_csv(file, PATHS) == ["s,1"] * 3


def test_a_table_of_excel_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = table(tmp_path, b"\xef\xbb\xbf" + full().encode())
    assert groups_from_csv(file, PATHS) == ["a", "a", "b"]


def test_names_are_found_however_they_are_composed(tmp_path: Path) -> None:
    file = table(tmp_path, "path,group\nbees/\ubc8c.jpg,one\n")
    assert groups_from_csv(file, ["bees/\u1107\u1165\u11af.jpg"]) == ["one"]


def test_a_name_that_is_no_utf_8_is_found(tmp_path: Path) -> None:
    file = table(tmp_path, b"path,group\nbees/\xff.jpg,one\n")
    assert groups_from_csv(file, ["bees/\udcff.jpg"]) == ["one"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,group\n" + full().split("\n")[1], "a group for each of 3 images, found none for 2"),
        (full("train/ants/a_1.jpg,a"), "line 5: expected each path once"),
        (full("train/ants/c.jpg"), "line 5: expected 2 columns, as in the first line, found 1"),
        (full("train/ants/c.jpg,a,b"), "found 3; correct the line; a comma inside a name"),
        (full("train/ants/c.jpg,"), "line 5: expected a path and its group, found no group"),
        (full(",a"), "line 5: expected a path and its group, found no path"),
        (full(header="file,group"), "line 1: expected the columns path,group, found file, group"),
        (full(header="path,group,group"), "line 1: expected the columns path,group"),
        ("path;group\na;b\n", "found path;group; name them in the first line"),
        ("", "line 1: expected the columns path,group, found nothing"),
        (full('"train/ants/c.jpg,a'), "expected a line of a CSV"),
        (full().encode("utf-16"), "line 1: expected"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: expected"),
        (full("x" * 200_000 + ",a"), "field larger than field limit"),
    ],
    ids=[
        "an image missing",
        "a path twice",
        "a cell missing",
        "a cell too many",
        "no group",
        "no path",
        "another header",
        "a column twice",
        "semicolons",
        "empty",
        "an open quote",
        "UTF-16",
        "a picture",
        "an endless cell",
    ],
)
def test_a_table_that_cannot_be_used_is_one_error(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    file = table(tmp_path, text)
    with pytest.raises(TlcacheError) as caught:
        groups_from_csv(file, PATHS)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(TlcacheError, match=r"none for 3: train/ants/a_1\.jpg, .*add their rows"):
        groups_from_csv(table(tmp_path, "path,group\n"), PATHS)


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TlcacheError, match=r"--groups .*expected a CSV .*correct the path"):
        groups_from_csv(tmp_path / name, PATHS)


def test_a_pattern_s_first_part_is_the_group() -> None:
    below = below_classes(PATHS, ("ants", "bees"))
    assert groups_from_pattern(r"^([a-z]+)_(\d+)", below) == ["a", "a", "b"]
    assert groups_from_pattern(r"_(\d)", below) == ["1", "2", "1"]


def test_folders_of_split_and_class_are_no_part_of_a_group() -> None:
    paths = ["train/ants/s1/1.jpg", "val/ants/s1/2.jpg", "ants/s1/3.jpg", "a+b/4.jpg", "x/5.jpg"]
    below = below_classes(paths, ("ants", "a+b"))
    assert below == ["s1/1.jpg", "s1/2.jpg", "s1/3.jpg", "4.jpg", "x/5.jpg"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a", "expected a part in parentheses, which is the group, found none"),
        ("(?:a)", "expected a part in parentheses"),
        ("(a", "expected a regular expression, found missing ), unterminated subpattern"),
        ("(a)_", "a group in each of 3 file names, found none in 1: b_1.jpg"),
        ("(z)?", "found none in 3: a_1.jpg, a_2.jpg, b_1.jpg"),
        ("()", "found none in 3"),
        ("", "expected a part in parentheses"),
    ],
)
def test_a_pattern_that_gives_no_groups_is_one_error(pattern: str, words: str) -> None:
    with pytest.raises(TlcacheError) as caught:
        groups_from_pattern(pattern, below_classes(PATHS, ("ants", "bees")))
    assert words in str(caught.value)
    assert f"--group-pattern {pattern!r}" in str(caught.value)
