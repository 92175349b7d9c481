"""The eval transform as a part of a network: RGB pixels of any size to normalised inputs.

For networks that leave tlcache. It makes the pixels of ``transforms``, that is Pillow's: the same
two passes with the same fixed-point weights, as products of matrices of whole numbers that float64
holds exactly. Only of images more than twice as tall as wide can pixels differ (bilinear: by a
level), which Pillow from 13 on resizes in the other order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tlcache.core.errors import UnmetError
from tlcache.data.transforms import Transform

_ONE = float(1 << 22)  # Pillow's 8-bit resampling: weights are multiples of 1 / 2^22


class Preprocessing(nn.Module):
    """(N, H, W, 3) uint8 RGB to (N, 3, crop, crop) float32: resized, cropped, normalised.

    Args:
        transform: Of the eval kind.

    Raises:
        OptionError: If its interpolation has no weights.
    """

    mean: Tensor
    std: Tensor
    pixel: Tensor

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if transform.interpolation not in _FILTERS:
            raise UnmetError(
                "--preprocess",
                expected=f"an interpolation of {', '.join(_FILTERS)}",
                found=transform.interpolation,
                remedy="leave it out, and prepare images as the file's metadata says",
            )
        self._resize, self._crop = transform.resize, transform.crop
        self._filter, self._reach = _FILTERS[transform.interpolation]
        for name in ("mean", "std"):
            values = torch.tensor(getattr(transform, name), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])
        self.register_buffer("pixel", torch.arange(transform.crop, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 to (N, 3, crop, crop) float32."""
        # Counted on the images themselves: so sizes and device stay free, whichever exporter
        # follows them. One that makes a tensor anew fixes it to the device of the example.
        down, across = _counted(images[:, :, :1, :1]), _counted(images[:, :1, :, :1])
        height, width = down[-1:] + 1, across[-1:] + 1
        short = torch.minimum(height, width)
        pixels = images.permute(0, 3, 1, 2).to(torch.float64)
        columns = self._weights(across, width, torch.floor(self._resize * width / short))
        rows = self._weights(down, height, torch.floor(self._resize * height / short))
        cropped = _levels(rows @ _levels(pixels @ columns.T))
        return (cropped.to(torch.float32) / 255 - self.mean) / self.std

    def _weights(self, sources: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """(crop, sources): of each source in each pixel of the crop; whole numbers.

        Args:
            sources: 0, 1, 2 …
            source, target: (1,) lengths before and after the resizing.
        """
        places = self.pixel + _centre(target, self._crop)
        scale = source / target
        stretch = torch.clamp(scale, min=1.0)
        reach = self._reach * stretch
        centres = (places + 0.5) * scale
        starts = torch.clamp(torch.floor(centres - reach + 0.5), min=0.0)[:, None]
        ends = torch.minimum(torch.floor(centres + reach + 0.5), source)[:, None]
        inside = (places >= 0) & (places < target)  # beyond the edge it is black
        used = (sources >= starts) & (sources < ends) & inside[:, None]
        values = self._filter((sources - centres[:, None] + 0.5) / stretch) * used.to(torch.float64)
        totals = values.sum(dim=1, keepdim=True)
        shares = values / (totals + (totals == 0).to(torch.float64))
        return torch.sign(shares) * torch.floor(torch.abs(shares) * _ONE + 0.5)


def _counted(line: Tensor) -> Tensor:
    """0, 1, 2 … in float64, as many as a (N, …) line of pixels has."""
    ones = line.sum(dim=0).flatten().to(torch.float64) * 0 + 1
    return torch.cumsum(ones, dim=0) - 1


def _centre(length: Tensor, crop: int) -> Tensor:
    """Where a centred crop begins, rounded as ``transforms`` does."""
    fits = (length >= crop).to(torch.float64)
    return fits * torch.round((length - crop) / 2) - (1 - fits) * torch.floor((crop - length) / 2)


def _levels(sums: Tensor) -> Tensor:
    """Rounded to 0 … 255, as Pillow rounds between its passes and after them."""
    return torch.clamp(torch.floor((sums + _ONE / 2) / _ONE), 0.0, 255.0)


def _bilinear(x: Tensor) -> Tensor:
    return torch.clamp(1.0 - torch.abs(x), min=0.0)


def _bicubic(x: Tensor) -> Tensor:  # a = -0.5, in Pillow's order
    x = torch.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return near * (x < 1).to(x.dtype) + far * ((x >= 1) & (x < 2)).to(x.dtype)


def _lanczos(x: Tensor) -> Tensor:
    return _sinc(x) * _sinc(x / 3) * (torch.abs(x) < 3).to(x.dtype)


def _sinc(x: Tensor) -> Tensor:
    zero = (x == 0).to(x.dtype)
    return zero + (1 - zero) * torch.sin(x * torch.pi) / (x * torch.pi + zero)


_FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
