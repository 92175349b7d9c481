"""The notebook runs from end to end on a few digits, and shows what it should."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tlcache.core.errors import DISTRIBUTION

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "transfer_learning.ipynb"
SCRIPT = ROOT / "scripts" / "run_notebook.py"
SMALL = {"OFFLINE": True, "IMAGES": 40, "SIDE": 64, "VIEWS": 1}
SMALL |= {"TUNED_IMAGES": 10, "TUNED_EPOCHS": 1}

if importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None:
    pytest.skip("needs nbclient and ipykernel", allow_module_level=True)


def cells(notebook: Path, kind: str = "code") -> list[Any]:
    """The cells of one kind."""
    return [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == kind]


def source(cell: Any) -> str:
    return "".join(cell["source"])


def texts(outputs: list[Any], kind: str = "text/plain") -> list[str]:
    """What a cell shows, printed texts among the plain ones."""
    shown = [o["data"].get(kind, "") if "data" in o else o["text"] for o in outputs]
    return ["".join(text) for text in shown]


def run(notebook: Path, output: Path, **parameters: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "error", str(SCRIPT), str(notebook), "--output", str(output)]
    words += [f"--set={name}={json.dumps(value)}" for name, value in parameters.items()]
    # Tests run side by side, and threads that spin while they wait would take their cores.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, cwd=output.parent, env=environment)


def test_the_notebook_runs_from_end_to_end_and_shows_its_results(tmp_path: Path) -> None:
    made = tmp_path / "made.ipynb"
    done = run(NOTEBOOK, made, **SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    ran, asked = cells(made), cells(NOTEBOOK)
    assert [source(cell) for cell in ran] == [source(cell) for cell in asked]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    outputs = [output for cell in ran for output in cell["outputs"]]
    streams = {output["name"] for output in outputs if output["output_type"] == "stream"}
    assert streams == {"stdout"}, [o for o in outputs if o.get("name") == "stderr"]

    said = "\n".join(texts(outputs))
    assert "to train on: 1 x 40 x 1280 features" in said
    assert "the same once more: 0 embedded, 80 taken from the cache" in said
    assert "judged on test, which chose nothing" in said
    for bar in ("embedding: 80 images", "finetuning: 30 images", "scoring: 20 images"):
        assert f"{bar} in " in said  # each became a line when it was done
    pages = texts(outputs, "text/html")
    assert not any("<progress" in page for page in pages)
    for words in ("80 images in digits/", "chosen on val", "macro-F1", "McNemar&#x27;s exact test"):
        assert any(words in page for page in pages), words
    pictures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 5
    assert not list(tmp_path.glob("transfer_learning*"))  # it ran in a folder of its own


def test_a_cell_that_fails_ends_the_run_and_writes_nothing(tmp_path: Path) -> None:
    book = json.loads(NOTEBOOK.read_text())
    book["cells"] = [c for c in book["cells"] if "parameters" in c["metadata"].get("tags", [])]
    book["cells"][0]["source"] = ["VIEWS = 2"]
    for name, value, code in (("VIEWS", 3, 0), ("VIEWS", None, 1)):
        book["cells"].append(book["cells"][0] | {"source": ["assert VIEWS"], "id": str(value)})
        (tmp_path / "book.ipynb").write_text(json.dumps(book))
        made = tmp_path / f"{value}.ipynb"
        done = run(tmp_path / "book.ipynb", made, **{name: value})
        assert (done.returncode, made.exists()) == (code, not code), done.stderr
    assert "AssertionError" in done.stderr


def test_a_parameter_that_cannot_be_set_is_refused(tmp_path: Path) -> None:
    for text in ("VIEWS", "VIEWS=", "VIEWS=two", "import os=1"):
        words = [sys.executable, str(SCRIPT), str(NOTEBOOK), "--output=x.ipynb", f"--set={text}"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert f"{text}: expected NAME=JSON" in " ".join(done.stderr.split())


def test_the_seven_steps_are_there_in_order_each_beside_the_tutorial() -> None:
    words = [source(cell) for cell in cells(NOTEBOOK, "markdown")]
    steps = [text for text in words if text.startswith("## ") and text[3].isdigit()]
    assert [text[3] for text in steps] == list("1234567")
    for text in steps:
        assert text.index("**The tutorial**") < text.index("**tlcache**")
    first = source(cells(NOTEBOOK)[0])
    assert f'%pip install --quiet "{DISTRIBUTION}[offline]"' in first


def test_what_is_committed_was_run_whole_and_says_nothing_of_the_machine() -> None:
    code, text = cells(NOTEBOOK), NOTEBOOK.read_text()
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert len(text) < 600_000
    printed = "\n".join(
        shown
        for cell in code
        for kind in ("text/plain", "text/html")
        for shown in texts(cell["outputs"], kind)
    )
    assert "accuracy 0." in printed
    for place in ("/root", "/home", "/tmp", "/Users", str(ROOT)):
        assert place not in printed
