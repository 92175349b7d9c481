"""Steps of SGD on heads, in closed form, by torch on a GPU (``head_steps`` has them for a CPU).

A step is a handful of kernels, each of which costs some microseconds whatever its size: a GPU pays
for many heads at once, or large ones. Covers no epochs (``head_training``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tlcache.heads.steps import Array, Steps

if TYPE_CHECKING:
    import torch


def steps_on(device: torch.device) -> Steps:
    """:func:`tlcache.heads.steps.steps`, done on a device; TF32 is not used.

    The rows of a call, the weights and the velocities are copied there, and the weights and the
    velocities back.
    """
    import torch

    def take(
        weight: Array,
        velocity: Array,
        rows: Array,
        labels: NDArray[np.integer],
        batch_size: int,
        lr: Array,
        momentum: Array,
        weight_decay: Array,
    ) -> Array:
        def there(array: NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        count, classes, width = weight.shape
        with torch.inference_mode():
            w, v = there(weight), there(velocity).clone()  # on a CPU it would be the caller's own
            w = w.clone()
            x, y = there(rows), there(labels.astype(np.int64))
            rate, mu, decay = (
                there(values)[:, None, None] for values in (lr, momentum, weight_decay)
            )
            logits = torch.empty(len(rows), count * classes, device=device)
            for start in range(0, len(rows), batch_size):
                batch = x[start : start + batch_size]
                seen = torch.mm(batch, w.view(-1, width).T, out=logits[start : start + len(batch)])
                error = torch.softmax(seen.view(-1, count, classes), dim=2)
                true = y[start : start + len(batch), None, None].expand(-1, count, 1)
                error.scatter_add_(2, true, error.new_full(true.shape, -1.0))
                error /= len(batch)
                v.mul_(mu).add_((error.view(len(batch), -1).T @ batch).view_as(w))
                v.addcmul_(w, decay)
                w.addcmul_(v, rate, value=-1)
            weight[...], velocity[...] = w.cpu().numpy(), v.cpu().numpy()
            made: Array = logits.cpu().numpy().reshape(len(rows), count, classes)
            return made

    return take
