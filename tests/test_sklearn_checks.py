"""scikit-learn's own suite of checks.

``HeadClassifier`` takes all of it. ``FeatureExtractor`` says by its tags that it takes no table of
numbers, and the suite hands over nothing else: by itself it passes one check and is left out of the
others. So they are run on a subclass that sees a row of numbers as an image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.validation import validate_data
from small_trunk import small_trunk

import tlcache.trunks.load
from tlcache.sklearn import FeatureExtractor, HeadClassifier


class RowsAsImages(FeatureExtractor):
    """Takes (N, D) numbers; each row is an image of its own bytes, (4, 2 D, 3)."""

    def fit(self, X: Any, y: object = None) -> RowsAsImages:
        super().fit(self._drawn(X, reset=True))
        return self

    def transform(self, X: Any) -> Any:
        return super().transform(self._drawn(X, reset=not hasattr(self, "n_features_in_")))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags

    def _drawn(self, X: Any, reset: bool) -> list[np.ndarray]:
        rows = validate_data(self, X, dtype=np.float64, reset=reset)
        octets = [np.frombuffer(row.tobytes(), np.uint8) for row in rows]
        return [np.repeat(o.reshape(1, -1, 1), 3, 2).repeat(4, 0) for o in octets]


@parametrize_with_checks([HeadClassifier()])
def test_the_head_passes_every_check(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@parametrize_with_checks([RowsAsImages("small", "random")])
def test_the_extractor_passes_the_checks_of_tables(
    estimator: Any, check: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tlcache.trunks.load, "load_trunk", lambda *_: small_trunk())
    check(estimator)


def test_the_suite_has_one_check_for_what_takes_no_table() -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator FeatureExtractor"):
        (done,) = check_estimator(FeatureExtractor())
    assert (done["check_name"], done["status"]) == ("check_estimator_cloneable", "passed")
