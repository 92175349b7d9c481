"""Features in the plane: principal components against scikit-learn's, t-SNE that comes again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tlcache.core.errors import DataError, OptionError
from tlcache.features.projection import principal_components, project


def groups(count: int = 60, dim: int = 12, apart: float = 8.0) -> NDArray[np.float32]:
    """Rows about two centres, the first half about one."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(count, dim)) * np.linspace(2, 0.1, dim)
    rows[: count // 2, 0] += apart
    return rows.astype(np.float32)


@pytest.mark.parametrize("dim", [12, 100])
def test_principal_components_are_scikit_learn_s(dim: int) -> None:
    from sklearn.decomposition import PCA

    rows = groups(dim=dim)
    fitted = PCA(n_components=2, svd_solver="full").fit(rows.astype(np.float64))
    theirs = fitted.transform(rows.astype(np.float64))
    places, shares = project(rows)
    assert shares is not None
    np.testing.assert_allclose(shares, fitted.explained_variance_ratio_, rtol=1e-9)
    for i in range(2):
        largest = fitted.components_[i][np.abs(fitted.components_[i]).argmax()]
        np.testing.assert_allclose(places[:, i], theirs[:, i] * np.sign(largest), atol=1e-6)


def test_signs_do_not_depend_on_the_order_of_the_images() -> None:
    rows = groups()
    order = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_allclose(project(rows[order])[0], project(rows)[0][order], atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (5, 1), (1, 1)])
def test_directions_that_are_not_there_are_0(shape: tuple[int, int]) -> None:
    places, shares = principal_components(np.random.default_rng(0).normal(size=shape), 2)
    assert places.shape == (shape[0], 2) and np.isfinite(places).all()
    assert shares.shape == (2,) and (places[:, 1] == 0).all() and shares[1] == 0


def test_equal_features_lie_on_one_place() -> None:
    places, shares = project(np.full((6, 4), 7.0))
    assert shares is not None and not places.any() and not shares.any()


def test_t_sne_keeps_groups_apart_and_neighbours_together() -> None:
    rows = groups(apart=30)
    places, shares = project(rows, "tsne")
    assert shares is None and places.shape == (60, 2)
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert ((nearest < 30) == (np.arange(60) < 30)).all()


def test_t_sne_comes_again_whatever_the_number_of_threads() -> None:
    rows = groups(200)
    first, _ = project(rows, "tsne", seed=3)
    for threads in (1, 2):
        with threadpool_limits(threads):
            again, _ = project(rows, "tsne", seed=3)
        np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("rows", [np.eye(4), np.full((5, 3), 2.0), np.arange(6.0)[:, None]])
def test_t_sne_of_few_or_equal_images_is_finite(rows: NDArray[np.float64]) -> None:
    assert np.isfinite(project(rows, "tsne")[0]).all()


BAD: list[tuple[Any, str, str]] = [
    (np.zeros((3, 2)), "tsne", "numbers of 4 or more images, one row each, found float64 (3, 2)"),
    (np.zeros((0, 2)), "pca", "numbers of 1 or more images, one row each, found float64 (0, 2)"),
    (np.zeros((3, 0)), "pca", "found float64 (3, 0); pass an (N, D) array"),
    (np.zeros(3), "pca", "found float64 (3,)"),
    ([["a"]], "pca", "features: expected numbers"),
    ([[0.0, 1.0], [0.0, np.nan]], "pca", "features, row 1: expected finite numbers, found nan"),
]


@pytest.mark.parametrize(("rows", "method", "words"), BAD)
def test_what_cannot_be_projected_is_said(rows: Any, method: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        project(rows, method)
    assert words in str(caught.value)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(OptionError) as caught:
        project(np.eye(3), "umap")
    assert str(caught.value) == ("--method: expected pca or tsne, found umap; name one of them")
