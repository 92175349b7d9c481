"""MNN's engine, where it is installed: its bounds, its errors, and its silence."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_trunk import small_trunk
from torch import nn
from trial_networks import (
    CPU,
    Net,
    adversarial,
    conv,
    eager,
    in_float64,
    in_order,
    noise,
    norm,
    off,
    off_alone,
    randomised,
    torchvision_network,
)
from typer.testing import CliRunner

import tlcache.trunks.engines
import tlcache.trunks.mnn_engine
from tlcache.cli import app
from tlcache.core.errors import OptionError
from tlcache.data.folders import ImageDataset, scan
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply
from tlcache.features.embed import embed
from tlcache.trunks.engines import BOUNDS, Engine, make_engine
from tlcache.trunks.load import Trunk, load_trunk
from tlcache.trunks.torch_engine import Run
from tlcache.trunks.weights import state_digest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("MNN") is None, reason="needs the optional package MNN"
)
PRECISIONS = ("fp32", "fast")
SMALL = ("--trunk", "mobilenet_v3_small", "--weights", "random", "--crop", "32", "--resize", "32")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextlib.contextmanager
def converted_once() -> Iterator[None]:
    """A network is converted for the first precision, and taken as it is for the second."""
    convert, kept = tlcache.trunks.mnn_engine._converted, dict[nn.Module, bytes]()

    def once(module: nn.Module, crop: int, folder: Path) -> Path:
        if module not in kept:
            kept[module] = convert(module, crop, folder).read_bytes()
        file = folder / "kept.mnn"
        file.write_bytes(kept[module])
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tlcache.trunks.mnn_engine, "_converted", once)
        yield


def both(module: nn.Module, crop: int) -> dict[str, Engine]:
    with converted_once():
        made = {
            p: make_engine(module, Transform(crop=crop), engine="mnn", precision=p, device=CPU)
            for p in PRECISIONS
        }
    assert {engine.name for engine in made.values()} == {"mnn"}
    return made


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision_network("resnet18")


@pytest.fixture(scope="module")
def engines(resnet: nn.Module) -> dict[str, Engine]:
    """Of each precision."""
    return both(resnet, 96)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_is_within_its_bound_of_eager(
    engines: dict[str, Engine], resnet: nn.Module, precision: str
) -> None:
    pixels = noise(9, 96, seed=1)  # not what the engine checks itself on
    away = off(engines[precision].new_run()(pixels), eager(resnet, pixels))
    assert away <= BOUNDS[precision]
    exact = off(engines["fp32"].new_run()(pixels), eager(resnet, pixels))
    assert precision == "fp32" or away > 5 * exact, "or fast would need no word of its own"


def test_each_precision_is_within_its_bound_on_real_photos_with_real_weights(
    photos: Path, mobilenet_weights: Path
) -> None:
    module = load_trunk("mobilenet_v2", str(mobilenet_weights)).module
    files = sorted((photos / "val" / "bees").glob("*.jpg"))[:8]
    views = [apply(decode(file.read_bytes(), file), Transform()) for file in files]
    pixels = np.ascontiguousarray(np.stack(views).transpose(0, 2, 3, 1))
    expected = eager(module, pixels)
    for precision, engine in both(module, 224).items():
        assert off(engine.new_run()(pixels), expected) <= BOUNDS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_batch_gives_the_same_bits_from_any_run_at_any_time(
    engines: dict[str, Engine], precision: str
) -> None:
    pixels, results = noise(9, 96), dict[int, np.ndarray]()
    expected = engines[precision].new_run()(pixels)
    runs = [engines[precision].new_run() for _ in range(3)]

    def work(at: int, run: Run) -> None:
        results[at] = run(pixels)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [np.array_equal(results[at], expected) for at in range(3)] == [True] * 3


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_other_company_moves_a_row_by_less_than_half_the_bound(
    engines: dict[str, Engine], precision: str, size: int
) -> None:
    # Where an image stands in MNN's batch of eight decides which additions it shares.
    run, pixels = engines[precision].new_run(), noise(9, 96)
    expected = run(pixels)
    parts = [run(pixels[at : at + size]) for at in range(0, len(pixels), size)]
    assert off(np.concatenate(parts), expected) <= BOUNDS[precision] / 2
    assert off(run(pixels[::-1].copy())[::-1], expected) <= BOUNDS[precision] / 2


def odd() -> nn.Module:
    """No exporter knows its function."""
    return Net(lambda net, x: torch.special.bessel_j0(x)).eval()


def small() -> Trunk:
    """Which MNN takes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomised(in_order(conv(), norm(), nn.ReLU(), conv(8), norm()))
    digest = state_digest(module.state_dict())
    return dataclasses.replace(small_trunk(), module=module, dim=8, digest=digest)


def test_a_network_that_cannot_be_converted(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError) as refused:
        make_engine(odd(), Transform(crop=16), engine="mnn", device=CPU)
    line = str(refused.value)
    assert line.startswith(
        "--engine mnn: expected a network that MNN takes, found one that cannot be converted ("
    )
    assert "special_bessel_j0" in line and line.endswith("); pass --engine torch")
    assert "\n" not in line
    assert capfd.readouterr().out == "", "the exporter prints"


def test_auto_leaves_to_torch_what_mnn_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    many = {"device": CPU, "images": 10**6, "report": said.append}
    assert make_engine(odd(), Transform(crop=16), **many).name == "torch"  # type: ignore[arg-type]
    monkeypatch.setitem(BOUNDS, "fp32", 0.0)
    engine = make_engine(small().module, Transform(crop=32), **many)  # type: ignore[arg-type]
    assert engine.name == "torch"
    unable, inexact = said
    start = "computed by torch, not MNN: expected "
    assert unable.startswith(f"{start}a network that MNN takes, found one that cannot be converted")
    assert inexact.startswith(f"{start}features within 0 of eager torch's, found a difference of ")


def branching() -> nn.Module:
    """Bright images take another branch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(Net(lambda n, x: n.conv(-x if x.mean() > 1 else x), conv=conv()))


def test_a_network_that_branches_on_its_numbers_is_left_to_torch() -> None:
    module, said, bright = branching(), list[str](), 2 + np.abs(noise(3, 16))
    words = "a network that MNN takes, found one that torch.fx cannot trace: it may branch on"
    with pytest.raises(OptionError, match=words):
        make_engine(module, Transform(crop=16), engine="mnn", device=CPU)
    many = {"device": CPU, "images": 10**6, "report": said.append}
    run = make_engine(module, Transform(crop=16), **many).new_run()  # type: ignore[arg-type]
    assert len(said) == 1 and said[0].startswith("computed by torch, not MNN: expected ")
    for pixels in (-bright, bright):
        assert off(run(pixels), eager(module, pixels)) <= BOUNDS["fp32"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_word_is_kept_on_images_that_digits_are_lost_on(
    mobilenet_weights: Path, precision: str
) -> None:
    module, pixels = load_trunk("mobilenet_v2", str(mobilenet_weights)).module, adversarial(96)
    how = {"engine": "mnn", "precision": precision, "device": CPU}
    rows = make_engine(module, Transform(crop=96), **how).new_run()(pixels)  # type: ignore[arg-type]
    assert off_alone(rows, in_float64(module, pixels)) <= BOUNDS[precision]


def test_a_session_that_fails_is_an_error_by_name_and_left_to_torch_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import MNN

    code, real = [0], MNN.Interpreter

    class Failing:
        """The real one, in all but this."""

        def __init__(self, file: str) -> None:
            self.own = real(file)

        def __getattr__(self, name: str) -> object:
            return getattr(self.own, name)

        def runSession(self, session: object) -> int:
            return code[0] or self.own.runSession(session)

    monkeypatch.setattr(MNN, "Interpreter", Failing)
    module, pixels, said = small().module, noise(3, 32), list[str]()
    how = {"device": CPU, "images": 10**6, "report": said.append}
    named = make_engine(module, Transform(crop=32), engine="mnn", **how).new_run()  # type: ignore[arg-type]
    auto = make_engine(module, Transform(crop=32), **how).new_run()  # type: ignore[arg-type]
    code[0] = 3
    words = "--engine mnn: expected a network it can run, found RuntimeError: MNN's error 3; pass"
    with pytest.raises(OptionError, match=words):
        named(pixels)
    assert off(auto(pixels), eager(module, pixels)) <= BOUNDS["fp32"]
    assert [line.partition(":")[0] for line in said] == ["computed by torch, not MNN"]


def test_a_closed_stdout_needs_no_silence() -> None:
    code = (
        "import os, sys; os.close(1); sys.stdout.close()\n"
        "from tlcache.core.machine import silent_stdout\n"
        "with silent_stdout(): print('done', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "done\n")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("print('out of ideas')", "out of ideas"),
        ("import sys; sys.exit('no such operator')", "no such operator"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import sys; open(sys.argv[-1], 'w').write('half'); sys.exit(3)", "exit code 3"),
    ],
)
def test_a_converter_that_fails_is_quoted(
    code: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.trunks.mnn_engine, "_CONVERT", code)
    with pytest.raises(OptionError, match=rf"one that cannot be converted \({found}\); pass"):
        make_engine(small().module, Transform(crop=32), engine="mnn", device=CPU)


def test_the_converter_calls_no_server_and_installs_nothing() -> None:
    # MNN's own script does both, in MNN.tools, as soon as it is imported.
    code, _ = tlcache.trunks.mnn_engine._CONVERT.split("; ")
    code += "; print(*(n for n in sys.modules if n.split('.')[0] in ('_tools', 'MNN', 'aliyun')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "_tools", done.stderr


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("fp32", "features within 0.0001 of eager torch's"),
        ("fast", "features within 0.00025 of eager torch's"),
    ],
)
@pytest.mark.parametrize(("wrong", "found"), [(1.001, r"1\.0e-03"), (np.nan, "nan")])
def test_an_engine_that_misses_its_bound_is_refused(
    precision: str, words: str, wrong: float, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = small().module

    def made(*_: object) -> Callable[[], Run]:
        return lambda: lambda pixels: eager(module, pixels) * np.float32(wrong)

    monkeypatch.setattr(tlcache.trunks.engines, "mnn_runs", made)
    with pytest.raises(
        OptionError,
        match=f"^--engine mnn: expected {words}, found a difference of {found}; "
        "pass --engine torch$",
    ):
        make_engine(module, Transform(crop=32), engine="mnn", precision=precision, device=CPU)


@pytest.fixture
def dataset(tiny_data: Path) -> ImageDataset:
    """24 images."""
    return scan(tiny_data)


@pytest.mark.parametrize(("enough", "said"), [(25, []), (24, ["computed by mnn"])])
def test_auto_takes_mnn_from_so_many_images_on(
    dataset: ImageDataset,
    tmp_path: Path,
    enough: int,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tlcache.trunks.engines, "MNN_IMAGES", enough)
    lines: list[str] = []
    embed(dataset, small(), cache=tmp_path / "cache", device="cpu", report=lines.append)
    assert lines == said


def test_auto_leaves_other_precisions_to_torch() -> None:
    for precision in ("bf16", "fp16"):
        module = small().module
        assert make_engine(
            module, Transform(crop=32), precision=precision, device=CPU, images=10**6
        ).name == ("torch")


def test_an_engine_is_no_part_of_the_identity_and_fast_is(
    dataset: ImageDataset, tmp_path: Path
) -> None:
    said: list[str] = []
    how = {"cache": tmp_path / "cache", "device": "cpu", "report": said.append}
    by_mnn = embed(dataset, small(), engine="mnn", **how)  # type: ignore[arg-type]
    assert (by_mnn.embedded, said) == (24, ["computed by mnn"])
    by_torch = embed(dataset, small(), engine="torch", **how)  # type: ignore[arg-type]
    assert (by_torch.embedded, said) == (0, ["computed by mnn"])
    assert by_torch.stores[0].identity == by_mnn.stores[0].identity

    elsewhere = how | {"cache": tmp_path / "other"}
    whole = embed(dataset, small(), engine="torch", **elsewhere)  # type: ignore[arg-type]
    assert off(by_mnn.read().features, whole.read().features) <= BOUNDS["fp32"]

    said.clear()
    fast = embed(dataset, small(), engine="mnn", precision="fast", **how)  # type: ignore[arg-type]
    key = fast.stores[0].identity.key
    assert fast.embedded == 24 and key != by_mnn.stores[0].identity.key
    assert said == [f"new identity {key[:8]}: precision fp32 → fast", "computed by mnn"]


def test_a_head_trained_on_fast_features_is_judged_by_them(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = ("--run-dir", "run", "--no-figures", "--json")
    data, fast = str(tiny_data), ("--engine", "mnn", "--precision", "fast")
    trained = CliRunner().invoke(app, ["train", data, *SMALL, *fast, *told])
    assert trained.exit_code == 0, trained.output
    monkeypatch.setattr(tlcache.trunks.engines, "make_engine", None)  # no features are made again
    judged = CliRunner().invoke(app, ["evaluate", "run", data, "--json"])
    assert judged.exit_code == 0, judged.output
    expected = json.loads(trained.stdout)["evaluation"]["val"]
    assert json.loads(judged.stdout) == expected | {"on": "val", "selected_on": "val"}


def test_mnn_says_nothing_on_stdout(tiny_data: Path, tmp_path: Path) -> None:
    code = "from tlcache.cli import main; main()"
    command = [sys.executable, "-c", code, "embed", str(tiny_data), *SMALL, "--engine", "mnn"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["embedded"] == 24
    assert done.stdout.count("\n") == 1 and done.stdout.startswith("{")
    assert "computed by mnn" in done.stderr.splitlines()
