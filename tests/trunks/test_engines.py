"""torch's engine: batch norms folded, and as close to eager fp32 as the precision's word says."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
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

import tlcache.trunks.engines
from tlcache.core.errors import OptionError, to_install
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply, cropped, normalisation
from tlcache.trunks.engines import BOUNDS, Engine, make_engine
from tlcache.trunks.load import load_trunk
from tlcache.trunks.torch_engine import Run, folded, normalised


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the pass: torch's own threads would only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_vit() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.VisionTransformer(64, 16, 3, 4, 64, 128)
        nn.init.normal_(network.heads[0].weight)  # zeros otherwise, whatever came before
        return network.eval().requires_grad_(False)


def norms_left(module: nn.Module) -> int:
    """Calls of a batch norm that are left after folding."""
    graph = folded(module)
    assert isinstance(graph, torch.fx.GraphModule)
    parts = dict(graph.named_modules())
    called = [parts[n.target] for n in graph.graph.nodes if n.op == "call_module"]
    return sum(isinstance(part, nn.BatchNorm2d) for part in called)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: torchvision_network("resnet18"), 0),
    "mobilenet_v2": (lambda: torchvision_network("mobilenet_v2"), 0),
    "efficientnet_b0": (lambda: torchvision_network("efficientnet_b0"), 0),
    "densenet121": (lambda: torchvision_network("densenet121"), 62),  # those before a convolution
    "googlenet": (
        lambda: torchvision_network(
            "googlenet", aux_logits=False, init_weights=False, transform_input=True
        ),
        0,
    ),
    "convnext_tiny": (lambda: torchvision_network("convnext_tiny"), 0),  # it has none
    "a small vision transformer": (small_vit, 0),
    "regnet_y_400mf": (lambda: torchvision_network("regnet_y_400mf"), 0),
    "shufflenet_v2_x1_0": (lambda: torchvision_network("shufflenet_v2_x1_0"), 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_is_within_its_bound_of_eager(name: str) -> None:
    make, left = NETWORKS[name]
    module, pixels = make(), noise(3)
    expected = eager(module, pixels)
    assert np.ptp(expected, axis=0).max() > 0, "images that differ must differ"
    assert norms_left(module) == left
    run = make_engine(module, Transform(crop=64), device=CPU).new_run()
    assert off(run(pixels), expected) <= BOUNDS["fp32"]


def test_fp32_is_within_its_bound_on_real_photos_with_real_weights(
    photos: Path, mobilenet_weights: Path
) -> None:
    module = load_trunk("mobilenet_v2", str(mobilenet_weights)).module
    files = sorted((photos / "val" / "bees").glob("*.jpg"))[:8]
    views = [apply(decode(file.read_bytes(), file), Transform()) for file in files]
    pixels = np.stack(views).transpose(0, 2, 3, 1)
    ours = make_engine(module, Transform(crop=224), device=CPU).new_run()(
        np.ascontiguousarray(pixels)
    )
    assert off(ours, eager(module, pixels)) <= BOUNDS["fp32"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions_are_within_their_bounds_and_beyond_that_of_fp32(precision: str) -> None:
    module, pixels = torchvision_network("resnet18"), noise(3)
    run = make_engine(module, Transform(crop=64), precision=precision, device=CPU).new_run()
    assert BOUNDS["fp32"] < off(run(pixels), eager(module, pixels)) <= BOUNDS[precision]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "a small vision transformer"])
def test_fp32_keeps_its_word_on_images_that_digits_are_lost_on(name: str) -> None:
    module, pixels = NETWORKS[name][0](), adversarial(64)
    exact = in_float64(module, pixels)
    assert off_alone(eager(module, pixels), exact) <= BOUNDS["fp32"] / 4, "or none could keep it"
    ours = make_engine(module, Transform(crop=64), device=CPU).new_run()(pixels)
    assert off_alone(ours, exact) <= BOUNDS["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "fast", "fp16", "bf16"])
def test_real_weights_keep_each_word_on_images_that_digits_are_lost_on(
    mobilenet_weights: Path, precision: str
) -> None:
    module, pixels = load_trunk("mobilenet_v2", str(mobilenet_weights)).module, adversarial(96)
    exact, said = in_float64(module, pixels), list[str]()
    engine = make_engine(
        module, Transform(crop=96), precision=precision, device=CPU, report=said.append
    )
    ours = engine.new_run()(pixels)
    assert np.abs(ours - exact).max() <= BOUNDS[precision] * np.abs(exact).max()
    assert precision in ("fp16", "bf16") or off_alone(ours, exact) <= BOUNDS[precision]
    assert said == []


def test_bytes_are_normalised_to_the_very_numbers_that_they_are_elsewhere() -> None:
    transform = Transform(crop=16, resize=20)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
    bytes_ = torch.from_numpy(np.stack([cropped(one, transform) for one in pixels]))
    table = torch.from_numpy(normalisation(transform))
    expected = np.stack([apply(one, transform).transpose(1, 2, 0) for one in pixels])
    assert np.array_equal(normalised(bytes_, table).numpy(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_keeps_each_precisions_bound(precision: str) -> None:
    module, transform = torchvision_network("resnet18"), Transform(crop=64, resize=64)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    expected = eager(
        module, np.stack([apply(one, transform) for one in pixels]).transpose(0, 2, 3, 1)
    )
    engine = make_engine(module, transform, precision=precision, device=torch.device("cuda", 0))
    run = engine.new_run()
    assert engine.raw
    for part in (pixels, pixels[:2], pixels):  # buffers are used again
        assert off(run(part), expected[: len(part)]) <= BOUNDS[precision]


def test_the_given_module_is_left_as_it_is() -> None:
    module = torchvision_network("resnet18")
    before = copy.deepcopy(module)
    make_engine(module, Transform(crop=64), precision="bf16", device=CPU).new_run()(noise(2))
    state, kept = module.state_dict(), before.state_dict()
    assert list(state) == list(kept)
    for name, value in kept.items():
        assert torch.equal(state[name], value)
        assert state[name].dtype == value.dtype and state[name].stride() == value.stride()
    modes = [(type(part), part.training) for part in before.modules()]
    assert [(type(part), part.training) for part in module.modules()] == modes


def hooked() -> nn.Module:
    """Makes its weights anew before each call, as ``weight_norm`` does."""

    def make(part: nn.Module, inputs: object) -> None:
        with torch.no_grad():
            part.weight.copy_(torch.linspace(-1, 1, 8 * 27).view(8, 3, 3, 3))  # type: ignore[operator]

    convolution = conv()
    convolution.register_forward_pre_hook(make)
    return convolution


def spread(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x  # torch.fx cannot follow this


ODD: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a bias": (lambda: in_order(conv(bias=True), norm()), 0),
    "a norm without weights": (lambda: in_order(conv(bias=True), norm(affine=False)), 0),
    "groups": (lambda: in_order(conv(), norm(), conv(8, groups=4), norm()), 0),
    "stride, dilation, padding": (
        lambda: in_order(conv(stride=2, dilation=2, padding=3, padding_mode="reflect"), norm()),
        0,
    ),
    "a norm that is named as an argument": (
        lambda: Net(lambda n, x: n.norm(input=n.conv(input=x)), conv=conv(), norm=norm()),
        0,
    ),
    "one norm for two convolutions": (
        lambda: Net(lambda n, x: n.norm(n.b(n.norm(n.a(x)))), a=conv(), b=conv(8), norm=norm()),
        0,
    ),
    "an output that is used twice": (
        lambda: Net(lambda n, x: n.norm(y := n.conv(x)) + y.square(), conv=conv(), norm=norm()),
        1,
    ),
    "a convolution that is called twice": (
        lambda: Net(lambda n, x: n.a(n.conv(x)) - n.b(n.conv(-x)), conv=conv(), a=norm(), b=norm()),
        2,
    ),
    "a norm of each batch's own": (
        lambda: in_order(conv(), norm(track_running_stats=False)),
        1,
    ),
    "a transposed convolution": (lambda: in_order(nn.ConvTranspose2d(3, 8, 3), norm()), 1),
    "a norm before its convolution": (
        lambda: in_order(nn.BatchNorm2d(3), conv(), nn.ReLU(), norm()),
        2,
    ),
    "weights made anew at each call": (lambda: in_order(hooked(), norm()), 1),
}


@pytest.mark.parametrize("name", ODD)
def test_only_what_can_be_folded_is_and_the_features_stay(name: str) -> None:
    make, left = ODD[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomised(make())
    pixels = noise(3, 16)
    assert norms_left(module) == left
    assert (
        off(
            make_engine(module, Transform(crop=16), device=CPU).new_run()(pixels),
            eager(module, pixels),
        )
        <= (BOUNDS["fp32"])
    )


def test_a_network_that_cannot_be_traced_still_works() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomised(Net(lambda n, x: n.norm(n.conv(spread(x))), conv=conv(), norm=norm()))
    assert not isinstance(folded(module), torch.fx.GraphModule)
    for sign in (-1, 1):
        pixels = sign * np.abs(noise(3, 16))
        ours = make_engine(module, Transform(crop=16), device=CPU).new_run()(pixels)
        assert off(ours, eager(module, pixels)) <= BOUNDS["fp32"]


def hidden(x: Tensor) -> Tensor:
    """Branches on numbers, and hides it from torch.fx."""
    with contextlib.suppress(torch.fx.proxy.TraceError):
        if x.mean() > 1:
            return -x
    return x


def else_where_traced(x: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else x.no_such_method()


@pytest.mark.parametrize(
    ("how", "found"),
    [
        (hidden, r"features within 0\.0001 of eager torch's, found a difference of \d"),
        (else_where_traced, "a network it can run, found AttributeError: .*no_such_method"),
    ],
)
def test_a_trace_that_is_wrong_or_fails_leaves_it_to_eager_torch_in_every_thread(
    how: Callable[[Tensor], Tensor], found: str
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomised(Net(lambda n, x: n.norm(n.conv(how(x))), conv=conv(), norm=norm()))
    said, bright = list[str](), 2 + np.abs(noise(3, 16))
    engine = make_engine(module, Transform(crop=16), device=CPU, report=said.append)
    first, second = engine.new_run(), engine.new_run()
    assert np.array_equal(first(bright), eager(module, bright)), "the very first features"
    assert re.match(f"computed by eager torch, not torch: expected {found}", said[0])
    for run in (second, first, engine.new_run()):
        assert np.array_equal(run(-bright), eager(module, -bright))
    assert len(said) == 1


def test_an_engine_that_fails_later_hands_on_nothing_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, said, calls = torchvision_network("resnet18"), list[str](), list[int]()

    def made(network: nn.Module, precision: str) -> Run:
        def run(pixels: np.ndarray) -> np.ndarray:
            calls.append(len(pixels))
            if len(calls) > 2:
                raise RuntimeError("out of order\nand more")
            return eager(network, pixels)

        return run

    monkeypatch.setattr(tlcache.trunks.engines, "cpu_run", made)
    run = make_engine(module, Transform(crop=64), device=CPU, report=said.append).new_run()
    for seed in range(4):
        assert np.array_equal(run(noise(2, seed=seed)), eager(module, noise(2, seed=seed)))
    assert said == [
        "computed by eager torch, not torch: expected a network it can run, "
        "found RuntimeError: out of order"
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_that_are_not_finite_are_no_fault_of_the_engine(precision: str) -> None:
    module = randomised(in_order(conv(bias=True), norm()))
    pixels, said = noise(3, 16), list[str]()
    pixels[1] = np.nan
    how = {"precision": precision, "device": CPU, "report": said.append}
    rows = make_engine(module, Transform(crop=16), **how).new_run()(pixels)  # type: ignore[arg-type]
    assert np.isfinite(rows).all(axis=1).tolist() == [True, False, True] and said == []


class Optional(nn.Module):
    """Its ``forward`` takes more than images, if it is given more."""

    def __init__(self) -> None:
        super().__init__()
        self.body = in_order(conv(bias=True), norm())

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        features: Tensor = self.body(x) * scale
        return features if mask is None else features * mask


def test_arguments_that_may_be_left_out_are_left_out() -> None:
    module, pixels = randomised(Optional()), noise(3, 16)
    assert norms_left(module) == 0
    said = list[str]()
    run = make_engine(module, Transform(crop=16), device=CPU, report=said.append).new_run()
    assert off(run(pixels), eager(module, pixels)) <= BOUNDS["fp32"] and said == []


def test_networks_are_traced_while_others_are_computed() -> None:
    module, pixels = torchvision_network("mobilenet_v2"), noise(2)
    expected, seen = eager(module, pixels), list[bool]()
    before = nn.Module.__call__

    def trace() -> None:
        for _ in range(3):
            seen.append(isinstance(folded(module), torch.fx.GraphModule))

    threads = [threading.Thread(target=trace) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert np.array_equal(eager(module, pixels), expected)
    assert seen == [True] * 6 and nn.Module.__call__ is before


def test_what_a_user_computes_in_changes_no_feature() -> None:
    module, pixels = torchvision_network("resnet18"), noise(2)
    run = make_engine(module, Transform(crop=64), device=CPU).new_run()
    expected = run(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        again = make_engine(module, Transform(crop=64), device=CPU).new_run()
        assert np.array_equal(run(pixels), expected)
        assert np.array_equal(again(pixels), expected)


def test_a_module_that_is_not_fp32_on_the_cpu_is_computed_by_a_copy_that_is() -> None:
    module, pixels = torchvision_network("resnet18"), noise(2)
    rows = make_engine(copy.deepcopy(module).double(), Transform(crop=64), device=CPU).new_run()
    assert off(rows(pixels), eager(module, pixels)) <= BOUNDS["fp32"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine(torchvision_network("resnet18"), Transform(crop=64), device=CPU)


def test_the_same_batch_gives_the_same_bits_from_any_run_at_any_time(engine: Engine) -> None:
    pixels, results = noise(9), dict[int, np.ndarray]()
    expected = engine.new_run()(pixels)
    threads = []

    def work(at: int, run: Run) -> None:
        torch.set_num_threads(1)
        results[at] = run(pixels)

    for at in range(3):
        threads.append(threading.Thread(target=work, args=(at, engine.new_run())))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert [np.array_equal(results[at], expected) for at in range(3)] == [True] * 3


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_other_company_moves_a_row_by_less_than_half_the_bound(engine: Engine, size: int) -> None:
    # torch chooses another order of additions for another number of images.
    run, pixels = engine.new_run(), noise(9)
    expected = run(pixels)
    parts = [run(pixels[at : at + size]) for at in range(0, len(pixels), size)]
    assert off(np.concatenate(parts), expected) <= BOUNDS["fp32"] / 2
    assert off(run(pixels[::-1].copy())[::-1], expected) <= BOUNDS["fp32"] / 2


@pytest.mark.parametrize("threads", [2, 3])
def test_torchs_threads_move_a_row_by_less_than_half_the_bound(
    engine: Engine, threads: int
) -> None:
    run, pixels = engine.new_run(), noise(5)
    expected = run(pixels)
    torch.set_num_threads(threads)
    assert off(run(pixels), expected) <= BOUNDS["fp32"] / 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"engine": "openvino"},
            "--engine: expected auto or torch or mnn, found openvino; name one of them",
        ),
        (
            {"engine": "mnn", "precision": "bf16"},
            "--engine mnn: expected --device cpu with --precision fp32 or fast, "
            "found cpu with bf16; leave --engine out",
        ),
        (
            {"engine": "mnn", "device": torch.device("cuda", 0)},
            "--engine mnn: expected --device cpu with --precision fp32 or fast, "
            "found cuda with fp32; leave --engine out",
        ),
        (
            {"engine": "mnn"},
            f"--engine mnn: expected MNN, found no such package; {to_install('mnn')}",
        ),
    ],
)
def test_an_engine_that_cannot_be_had_says_why(
    asked: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError) as refused:
        make_engine(nn.Flatten(), Transform(crop=8), **({"device": CPU} | asked))  # type: ignore[arg-type]
    assert str(refused.value) == words


@pytest.mark.parametrize("images", [0, 10**6])
def test_auto_takes_torch_where_mnn_is_not_installed(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert make_engine(nn.Flatten(), Transform(crop=8), device=CPU, images=images).name == "torch"
