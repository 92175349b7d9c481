"""Features in two dimensions, to be looked at: principal components, or t-SNE.

Takes arrays. Draws nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.core.errors import DataError, OptionError

METHODS = ("pca", "tsne")
PERPLEXITY = 30.0
_COMPONENTS = 50  # that t-SNE is made of; the rest is noise, and time
_FEWEST = 4


def project(
    features: ArrayLike, method: str = "pca", seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Places of features in the plane.

    Args:
        features: (N, D), finite; N at least 1, and 4 for t-SNE.
        method: ``pca`` or ``tsne``.
        seed: Of t-SNE.

    Returns:
        (N, 2) places, and the two components' shares of the variance; None of t-SNE.

    Raises:
        DataError: If the features are of another shape, too few, or not finite.
        OptionError: If there is no such method.
    """
    check_method(method)
    rows = _checked(features, 1 if method == "pca" else _FEWEST)
    if method == "pca":
        return principal_components(rows, 2)
    return _tsne(rows, seed), None


def check_method(method: str) -> None:
    """Refuse a method that there is not.

    Raises:
        OptionError: If there is none of that name.
    """
    if method not in METHODS:
        known = " or ".join(METHODS)
        raise OptionError("--method", known, method, "name one of them")


def principal_components(
    features: NDArray[np.floating], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates along the directions of the largest variance.

    Signs are such that the largest loading of each direction is positive, so that the same features
    always lie in the same places; where there are fewer directions than asked for, the rest is 0.

    Args:
        features: (N, D).
        count: K.

    Returns:
        (N, K) coordinates, and (K,) shares of the variance.
    """
    centred = features - features.mean(axis=0, dtype=np.float64)
    if len(centred) > centred.shape[1]:  # many times faster, and as exact for large directions
        rising, columns = np.linalg.eigh(centred.T @ centred)
        squares, directions = np.maximum(rising[::-1], 0), columns.T[::-1]
    else:
        _, values, directions = np.linalg.svd(centred, full_matrices=False)
        squares = values**2
    kept = min(count, len(squares))
    largest = np.abs(directions[:kept]).argmax(axis=1)
    signs = np.sign(directions[np.arange(kept), largest])
    places, shares = np.zeros((len(features), count)), np.zeros(count)
    places[:, :kept] = centred @ directions[:kept].T * signs
    shares[:kept] = squares[:kept] / (squares.sum() or 1)
    return places, shares


def _tsne(features: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 2008.

    It starts from the principal components, which keep the large distances: Kobak and Berens, "The
    art of using t-SNE for single-cell transcriptomics", Nature Communications 2019.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # t-SNE makes a last bit large, and threads may sum in any order
        reduced, _ = principal_components(features, max(2, min(_COMPONENTS, *features.shape)))
        start = reduced[:, :2] * (1e-4 / (reduced[:, 0].std() or 1))
        fitted = TSNE(
            perplexity=min(PERPLEXITY, (len(features) - 1) / 3),
            init=start.astype(np.float32),
            random_state=np.random.RandomState(np.random.PCG64(np.random.SeedSequence(seed))),
        ).fit_transform(reduced.astype(np.float32))
    return np.asarray(fitted, np.float64)


def _checked(features: ArrayLike, fewest: int) -> NDArray[np.float64]:
    rows = np.asarray(features)
    if rows.ndim != 2 or len(rows) < fewest or not rows.shape[1] or rows.dtype.kind not in "fiu":
        expected = f"numbers of {fewest} or more images, one row each"
        remedy = "name a split with more images" if fewest > 1 else "pass an (N, D) array"
        raise DataError("features", expected, f"{rows.dtype} {rows.shape}", remedy)
    if len(bad := np.argwhere(~np.isfinite(rows))):
        row, column = bad[0]
        remedy = "check the network: it gives no finite features of that image"
        raise DataError(f"features, row {row}", "finite numbers", str(rows[row, column]), remedy)
    return rows.astype(np.float64)
