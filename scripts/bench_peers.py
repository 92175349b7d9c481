"""Other packages' own ways to turn a folder of images into features, where they are installed.

All compute with the very weights of one trunk, on a CPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from typing import Any

import numpy as np
from bench_contenders import Array, Contender, forward, in_order, loader, timed, wanted
from PIL import Image
from torch.utils.data import ConcatDataset

from tlcache.data.folders import ImageDataset
from tlcache.trunks.load import Trunk

PEER_BATCH = 32


def peers(trunk: Trunk, few: ImageDataset) -> tuple[dict[str, Contender], dict[str, str]]:
    """Other packages' own loops, tried on a few images; and why those are left out that are."""
    contenders, left_out = {}, {}
    makers = {"timm": timm_loop, "img2vec_pytorch": img2vec, "thingsvision": thingsvision}
    for name, make in makers.items():
        if importlib.util.find_spec(name) is None:
            left_out[name] = "not installed"
            continue
        try:
            contender = make(trunk)
            contender(few)
            contenders[name] = contender
        except Exception as error:  # whatever another package raises at a network it lacks
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    return contenders, left_out


def timm_loop(trunk: Trunk) -> Contender:
    """timm's datasets and transforms under a DataLoader."""
    import timm
    import timm.data

    module = timm.create_model(trunk.name.removeprefix("timm/"), pretrained=False, num_classes=0)
    module.load_state_dict(trunk.module.state_dict())
    module.eval()
    t = trunk.transform
    transform = timm.data.create_transform(
        (3, t.crop, t.crop),
        interpolation=t.interpolation,
        crop_pct=t.crop / t.resize,
        mean=t.mean,
        std=t.std,
    )

    def features(dataset: ImageDataset) -> Array:
        parts, paths = [], []
        for split in dataset.present_splits():
            part = timm.data.ImageDataset(str(dataset.root / split), transform=transform)
            part.reader.samples = wanted(dataset, part.reader.samples)
            parts.append(part)
            paths += part.filenames(absolute=True)
        return in_order(dataset, paths, forward(module, loader(ConcatDataset(parts), PEER_BATCH)))

    return timed(features)


def img2vec(trunk: Trunk) -> Contender:
    """img2vec_pytorch's ``get_vec`` on lists of images; it knows torchvision's ResNets."""
    from img2vec_pytorch import Img2Vec

    if not trunk.name.startswith("resnet"):
        raise ValueError(f"not tried with {trunk.name}")

    class WithTheseWeights(Img2Vec):  # its own are downloaded
        def _get_model_and_layer(self, model_name: str, layer: object) -> tuple[Any, Any]:
            return trunk.module, trunk.module.get_submodule("avgpool")

    vectoriser = WithTheseWeights(model="resnet-18", layer_output_size=trunk.dim)

    def features(dataset: ImageDataset) -> Array:
        rows = []
        for start in range(0, len(dataset), PEER_BATCH):
            some = range(start, min(start + PEER_BATCH, len(dataset)))
            images = [Image.open(dataset.path(i)).convert("RGB") for i in some]
            rows.append(vectoriser.get_vec(images))
        return np.concatenate(rows)

    return timed(features)


def thingsvision(trunk: Trunk) -> Contender:
    """thingsvision's extractor, data set and loader."""
    from thingsvision import get_extractor_from_model
    from thingsvision.utils.data import DataLoader as Batches
    from thingsvision.utils.data import ImageDataset as Images

    last, _ = list(trunk.module.named_modules())[-1]
    with _quiet():
        extractor = get_extractor_from_model(trunk.module, "cpu", "pt")
    transform = extractor.get_transformations(trunk.transform.resize, trunk.transform.crop)

    def features(dataset: ImageDataset) -> Array:
        rows, paths = [], []
        with tempfile.TemporaryDirectory() as names, _quiet():
            for split in dataset.present_splits():
                images = Images(str(dataset.root / split), names, "pt", transforms=transform)
                kept = wanted(dataset, [(path,) for path in images.samples])
                images.samples = [path for (path,) in kept]
                paths += images.samples
                batches = Batches(dataset=images, batch_size=PEER_BATCH, backend="pt")
                rows.append(extractor.extract_features(batches, last, flatten_acts=True))
        return in_order(dataset, paths, np.concatenate(rows))

    return timed(features)


@contextlib.contextmanager
def _quiet() -> Any:
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
