"""Both estimators together in scikit-learn's tools, on the real photos."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import tlcache.sklearn
from tlcache.data.folders import scan, subset
from tlcache.features.missing import make_rows
from tlcache.sklearn import FeatureExtractor, HeadClassifier


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos") / "cache"


@pytest.fixture
def some(photos: Path) -> tuple[list[str], np.ndarray]:
    """24 photos of ants and bees, and their labels."""
    few = subset(scan(photos), train=24, val=1)
    rows = few.indices("train")
    return [str(few.path(i)) for i in rows], np.array(few.classes)[few.labels[rows]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass puts through the network."""
    counts = list[int]()

    def counted(trunk: object, jobs: object, total: int, *how: object) -> dict[bytes, str]:
        counts.append(total)
        return make_rows(trunk, jobs, total, *how)  # type: ignore[arg-type]

    monkeypatch.setattr("tlcache.features.extract.make_rows", counted)
    return counts


def test_a_search_over_a_pipeline_puts_each_photo_through_the_network_once(
    some: tuple[list[str], np.ndarray], made: list[int], mobilenet_weights: Path, cache: Path
) -> None:
    paths, labels = some
    model = Pipeline(
        [
            ("features", FeatureExtractor("mobilenet_v2", mobilenet_weights, cache)),
            ("head", HeadClassifier(epochs=5)),
        ]
    )
    grid = {"head__lr": [0.0001, 0.001], "head__weight_decay": [0.0, 0.01]}
    search = GridSearchCV(model, grid, cv=4, error_score="raise").fit(paths, labels)
    assert sum(made) == len(paths) == 24 and made == [18, 6]
    assert search.best_score_ > 0.8 and search.score(paths, labels) > 0.9
    assert sum(made) == 24
    scores = cross_val_score(clone(model), paths, labels, cv=4)
    assert scores.mean() > 0.8 and sum(made) == 24


def test_a_table_with_paths_and_numbers_is_transformed_by_columns(
    some: tuple[list[str], np.ndarray], mobilenet_weights: Path, cache: Path
) -> None:
    paths, labels = some
    table = pd.DataFrame({"photo": paths, "width": np.arange(24.0)})
    extractor = FeatureExtractor("mobilenet_v2", mobilenet_weights, cache)
    columns = make_column_transformer((extractor, "photo"), (StandardScaler(), ["width"]))
    model = make_pipeline(columns, LogisticRegression())
    assert model.fit(table, labels).score(table, labels) == 1
    names = columns.fit(table).get_feature_names_out()
    assert names[[0, -2, -1]].tolist() == [
        "featureextractor__featureextractor0",
        "featureextractor__featureextractor1279",
        "standardscaler__width",
    ]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testmod(tlcache.sklearn)
    assert failed == 0 and attempted > 10
    assert list(tmp_path.iterdir()) == []
