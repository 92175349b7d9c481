"""Steps of SGD on heads that see the same rows in the same order, in closed form.

The gradient of the mean cross-entropy of softmax(X Wᵀ) is (softmax − onehot)ᵀ X / m, so a step is
two matrix products for each of G heads side by side. Three times here: by numpy; compiled by numba
(extra ``fast``), which wastes no time between the products; and by torch on a GPU. All do the same
but for their last digits; by the first two a head takes the same steps to the bit whatever heads
stand beside it. Covers no epochs, no schedule and no judging (``train``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlcache.core.machine import blas_for, exact_arithmetic, once
from tlcache.heads.rows import Array, Labels

if TYPE_CHECKING:
    import torch


class Rates(NamedTuple):
    """What SGD multiplies by, of each of G heads: (G,) each."""

    lr: Array
    momentum: Array
    weight_decay: Array


Steps = Callable[[Array, Array, Array, Labels, int, Rates], Array]
"""Takes what :func:`steps` takes, and does the same."""


def steps(
    weight: Array, velocity: Array, rows: Array, labels: Labels, batch_size: int, rates: Rates
) -> Array:
    """Take the rows in order, a step a batch, as ``torch.optim.SGD`` would.

    Args:
        weight: (G, C, E), changed in place; the bias is the last column.
        velocity: (G, C, E), SGD's momentum buffer, changed in place.
        rows: (n, E), with a last column of ones.
        labels: (n,) in [0, C).
        batch_size: Rows a step; the last ones may be fewer.
        rates: Of each head.

    Returns:
        (n, G, C): the logits that each step saw.
    """
    classes, width = weight.shape[1:]
    lr, momentum, weight_decay = (rate[:, None, None] for rate in rates)
    onehot = np.eye(classes, dtype=np.float32)[labels]
    logits = np.empty((len(weight), len(rows), classes), np.float32)
    scratch, gradient = np.empty_like(weight), np.empty_like(weight)
    decays = bool(weight_decay.any())
    # A product a head: one larger one of all of them would add up in another order than alone.
    across = weight.transpose(0, 2, 1)
    with blas_for(2 * batch_size * classes * width):
        for start in range(0, len(rows), batch_size):
            batch = slice(start, start + batch_size)
            x = rows[batch]
            error = np.matmul(x, across, out=logits[:, batch])
            error = error - error.max(axis=2, keepdims=True)
            np.exp(error, out=error)
            error /= error.sum(axis=2, keepdims=True)
            error -= onehot[batch]
            error /= np.float32(len(x))
            velocity *= momentum
            velocity += np.matmul(error.transpose(0, 2, 1), x, out=gradient)
            if decays:
                velocity += np.multiply(weight, weight_decay, out=scratch)
            weight -= np.multiply(velocity, lr, out=scratch)
    return logits.transpose(1, 0, 2)


def can_compile() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@once
def compiled_steps() -> Steps:
    """:func:`steps`, compiled; takes some seconds the first time on a machine.

    Where numba is at odds with this numpy, it is :func:`steps` itself.
    """
    try:
        import numba
        from numba import float32, int64, types
    except ImportError:
        return steps
    heads, rates = (float32[:, :, ::1],) * 2, types.UniTuple(float32[::1], 3)
    signature = float32[:, :, ::1](*heads, float32[:, ::1], int64[::1], int64, rates)
    reorder = {"contract", "reassoc", "nsz", "arcp"}  # NaN and Inf stay what they are
    options: dict[str, Any] = {"nogil": True, "fastmath": reorder, "error_model": "numpy"}
    compiled: Steps
    try:
        compiled = numba.njit(signature, cache=True, **options)(_steps)
    except Exception:  # no folder to keep it in, a full disk, a damaged file there
        compiled = numba.njit(signature, **options)(_steps)
    return lambda w, v, rows, labels, size, rates: compiled(
        w, v, rows, labels.astype(np.int64), size, tuple(rates)
    )


def _steps(weight, velocity, rows, labels, batch_size, rates):  # type: ignore[no-untyped-def]
    """Head after head through a batch: a head's weights stay in the processor's cache."""
    lr, momentum, weight_decay = rates
    count, classes, width = weight.shape
    logits = np.empty((len(rows), count, classes), np.float32)
    error = np.empty((batch_size, classes), np.float32)
    for start in range(0, len(rows), batch_size):
        size = min(batch_size, len(rows) - start)
        for g in range(count):
            for i in range(size):
                row, seen = rows[start + i], logits[start + i, g]
                for c in range(classes):
                    total = np.float32(0)
                    for d in range(width):
                        total += row[d] * weight[g, c, d]
                    seen[c] = total
                top = seen.max()
                normaliser = np.float32(0)
                for c in range(classes):
                    error[i, c] = np.exp(seen[c] - top)
                    normaliser += error[i, c]
                for c in range(classes):
                    error[i, c] /= normaliser
                error[i, labels[start + i]] -= np.float32(1)
            for c in range(classes):
                for i in range(size):
                    error[i, c] /= np.float32(size)
                w, v = weight[g, c], velocity[g, c]
                mu, decay, rate = momentum[g], weight_decay[g], lr[g]
                for d in range(width):
                    v[d] = mu * v[d] + decay * w[d]
                at = 0
                while at + 4 <= size:  # four rows at once: a quarter of the traffic
                    e0, e1 = error[at, c], error[at + 1, c]
                    e2, e3 = error[at + 2, c], error[at + 3, c]
                    r0, r1 = rows[start + at], rows[start + at + 1]
                    r2, r3 = rows[start + at + 2], rows[start + at + 3]
                    for d in range(width):
                        v[d] += e0 * r0[d] + e1 * r1[d] + e2 * r2[d] + e3 * r3[d]
                    at += 4
                while at < size:
                    e, r = error[at, c], rows[start + at]
                    for d in range(width):
                        v[d] += e * r[d]
                    at += 1
                for d in range(width):
                    w[d] -= rate * v[d]
    return logits


def steps_on(device: torch.device) -> Steps:
    """:func:`steps`, done on a device, without TF32.

    The rows of a call, the weights and the velocities are copied there, and the weights and the
    velocities back.
    """
    import torch

    def there(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def take(
        weight: Array, velocity: Array, rows: Array, labels: Labels, batch_size: int, rates: Rates
    ) -> Array:
        count, classes, width = weight.shape
        with torch.inference_mode(), exact_arithmetic():
            # Copies: on a CPU they would be the caller's own.
            w, v = there(weight).clone(), there(velocity).clone()
            x, y = there(rows), there(labels.astype(np.int64))
            lr, momentum, weight_decay = (there(rate)[:, None, None] for rate in rates)
            logits = torch.empty(len(rows), count * classes, device=device)
            for start in range(0, len(rows), batch_size):
                batch = x[start : start + batch_size]
                seen = torch.mm(batch, w.view(-1, width).T, out=logits[start : start + len(batch)])
                error = torch.softmax(seen.view(-1, count, classes), dim=2)
                true = y[start : start + len(batch), None, None].expand(-1, count, 1)
                error.scatter_add_(2, true, error.new_full(true.shape, -1.0))
                error /= len(batch)
                v.mul_(momentum).add_((error.view(len(batch), -1).T @ batch).view_as(w))
                v.addcmul_(w, weight_decay)
                w.addcmul_(v, lr, value=-1)
            weight[...], velocity[...] = w.cpu().numpy(), v.cpu().numpy()
            made: Array = logits.cpu().numpy().reshape(len(rows), count, classes)
            return made

    return take
