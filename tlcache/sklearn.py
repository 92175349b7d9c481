"""scikit-learn's way: a transformer of images to cached features, and a classifier on them.

Both follow scikit-learn's conventions, so they work in ``Pipeline``, ``GridSearchCV`` and
``cross_val_score``. Importing this module imports scikit-learn; nothing else of tlcache does.
"""

from __future__ import annotations

import numbers
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.base import ClassNamePrefixFeaturesOutMixin as NamesByClass
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tlcache.core.errors import InputError, OptionError
from tlcache.core.files import StrPath, as_path
from tlcache.core.machine import Compute
from tlcache.data.images import as_images
from tlcache.evaluation.metrics import softmax
from tlcache.features.extract import extract, feature_length
from tlcache.features.stores import FeatureSpec
from tlcache.heads.recipe import Recipe
from tlcache.heads.train import train_head
from tlcache.trunks.info import TrunkInfo, as_weights

if TYPE_CHECKING:
    from tlcache.trunks.load import Trunk


class FeatureExtractor(NamesByClass, TransformerMixin, BaseEstimator):
    """Images to a frozen network's features, each image put through the network once.

    It learns nothing from the images: ``fit`` only checks the options and the input. Features are
    kept in the cache of ``tlcache embed``, and found there whoever made them. An image in memory
    is kept like the PPM file that its RGB pixels make. No data set names these features, so
    ``tlcache cache gc`` may remove them; they are made again when they are wanted.

    Images are paths (``str`` or ``Path``), Pillow's images, or (H, W, 3) uint8 arrays, mixed at
    will, in a list, a one-dimensional array or series, a table with one column, or one
    (N, H, W, 3) array.

    Args:
        trunk: The frozen network's name, or a :class:`tlcache.trunks.load.Trunk`.
        weights: For a name: ``imagenet``, a file, or ``random``.
        cache: The cache folder; None to keep nothing.
        preprocess: Fields of the weights' own transform to change, such as ``{"crop": 192}``.
        precision: ``fp32``, ``fast``, ``fp16`` or ``bf16``.
        dtype: Of the kept numbers: ``float32`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        engine: ``auto``, ``torch`` or ``mnn``.
        workers: Threads; None for one each usable core.
        batch_size: Images that go through the network at once; None for what suits the device.

    Examples:
        >>> import numpy as np
        >>> from sklearn.pipeline import make_pipeline
        >>> from tlcache.sklearn import FeatureExtractor, HeadClassifier
        >>> noise = np.random.default_rng(0).integers(0, 60, (16, 40, 40, 3), np.uint8)
        >>> noise[8:] += 180
        >>> labels = ["night"] * 8 + ["day"] * 8
        >>> small = {"resize": 32, "crop": 32}
        >>> extractor = FeatureExtractor("resnet18", "random", cache=None, preprocess=small)
        >>> model = make_pipeline(extractor, HeadClassifier()).fit(noise, labels)
        >>> model.predict(noise[[0, -1]]).tolist()
        ['night', 'day']
    """

    def __init__(
        self,
        trunk: str | Trunk = "resnet18",
        weights: StrPath = "imagenet",
        cache: StrPath | None = "cache",
        *,
        preprocess: dict[str, Any] | None = None,
        precision: str = "fp32",
        dtype: str = "float32",
        device: str = "auto",
        engine: str = "auto",
        workers: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.trunk = trunk
        self.weights = weights
        self.cache = cache
        self.preprocess = preprocess
        self.precision = precision
        self.dtype = dtype
        self.device = device
        self.engine = engine
        self.workers = workers
        self.batch_size = batch_size

    def fit(self, X: Any, y: object = None) -> FeatureExtractor:
        """Check the options and that X holds images; no image is read.

        Raises:
            InputError: If an option makes no sense, or X is not a sequence of images.
            TlcacheError: If the trunk or the cache is at fault.
        """
        as_images(X)
        with self._spec() as spec:
            feature_length(spec)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """(N, D) features of N images, in their order.

        Raises:
            InputError: If an option makes no sense, or X is not a sequence of images.
            ImageError: If images cannot be read; the features of all others are in the cache.
            TlcacheError: If the trunk or the cache is at fault.
        """
        images = as_images(X)
        with self._spec() as spec:
            return extract(images, spec)

    @property
    def _n_features_out(self) -> int:
        with self._spec() as spec:
            return feature_length(spec)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []  # it is float32, whatever the images are
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = tags.input_tags.string = True
        return tags

    @contextmanager
    def _spec(self) -> Iterator[FeatureSpec]:
        """The features that are wanted; without a cache, a folder serves for the while."""
        options = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        kinds: dict[str, tuple[str, tuple[type, ...]]] = {
            "trunk": ("a name or a Trunk", (str, TrunkInfo)),
            "weights": ("imagenet, random or a file", (str, os.PathLike)),
            "cache": ("a folder or None", (str, os.PathLike, NoneType)),
            "preprocess": ("a dict or None", (dict, NoneType)),
            "workers": ("a whole number or None", (int, NoneType)),
            "batch_size": ("a whole number or None", (int, NoneType)),
        }
        for name, value in options.items():
            expected, kind = kinds.get(name, ("a word", (str,)))
            if not isinstance(value, kind):
                raise InputError(name, expected, repr(value), "correct it")
        compute = ("device", "engine", "workers", "batch_size")
        with tempfile.TemporaryDirectory() as nowhere, _as_parameters():
            yield FeatureSpec(
                trunk=options["trunk"],
                weights=as_weights(options["weights"]),
                cache=as_path("cache", nowhere if options["cache"] is None else options["cache"]),
                transform=options["preprocess"] or {},
                precision=options["precision"],
                dtype=options["dtype"],
                compute=Compute(**{name: options[name] for name in compute}),
            )


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """The head that ``tlcache train`` trains: softmax regression by SGD with a step schedule.

    There is no val split: the weights are those of the last epoch.

    Args:
        epochs: Passes over the rows.
        batch_size: Rows a step.
        lr: Learning rate of the first epoch.
        momentum: Of SGD.
        weight_decay: L2 penalty.
        step_size, gamma: The learning rate is multiplied by ``gamma`` every ``step_size`` epochs.
        random_state: Of the first weights and of the order of rows: a whole number, a
            ``RandomState``, or None for another one each time.

    Attributes:
        classes_: (C,) the labels, sorted.
        coef_: (C, D) float32, or (1, D) for two classes: of the second against the first.
        intercept_: (C,) float32, or (1,).
        n_features_in_: D.
        n_iter_: Epochs that were trained.

    Examples:
        >>> import numpy as np
        >>> from sklearn.model_selection import cross_val_score
        >>> from tlcache.sklearn import HeadClassifier
        >>> rows = np.random.default_rng(0).normal(size=(60, 8))
        >>> labels = np.where(rows[:, 0] > 0, "bees", "ants")
        >>> bool(cross_val_score(HeadClassifier(lr=0.1), rows, labels, cv=3).mean() > 0.8)
        True
    """

    classes_: NDArray[Any]
    coef_: NDArray[np.float32]
    intercept_: NDArray[np.float32]
    n_features_in_: int
    n_iter_: int

    def __init__(
        self,
        *,
        epochs: int = 25,
        batch_size: int = 4,
        lr: float = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        step_size: int = 7,
        gamma: float = 0.1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.step_size = step_size
        self.gamma = gamma
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> HeadClassifier:
        """Train on (N, D) features and (N,) labels of two classes or more.

        Raises:
            InputError: If a parameter makes no sense, or there is one class only.
            ValueError: If scikit-learn takes X or y for no features or labels.
            DataError: If the loss is no longer finite.
        """
        rows, targets = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(targets)
        self.classes_, labels = np.unique(targets, return_inverse=True)
        if len(self.classes_) < 2:
            found = f"1 class, {self.classes_[0]}"
            remedy = "add rows of another class"
            raise InputError("y", "labels of two classes or more", found, remedy)
        # An epoch is judged on val, which decides nothing here: one row is the least that it takes.
        val = rows[:1], labels[:1]
        trained = train_head(rows, labels, *val, self._recipe(), classes=len(self.classes_))
        self.coef_, self.intercept_ = trained.last.weight, trained.last.bias
        if len(self.classes_) == 2:
            self.coef_, self.intercept_ = np.diff(self.coef_, axis=0), np.diff(self.intercept_)
        self.n_iter_ = len(trained.history)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """(N, C) logits of (N, D) features; of two classes, (N,), over 0 for the second."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        scores: NDArray[np.float32] = rows @ self.coef_.T + self.intercept_
        return scores if len(self.classes_) > 2 else scores[:, 0]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(N,) labels of (N, D) features."""
        scores = self.decision_function(X)
        chosen = scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        return self.classes_[chosen]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """(N, C) probabilities of (N, D) features, in the order of ``classes_``."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.column_stack([np.zeros_like(scores), scores])
        return softmax(scores)

    def _recipe(self) -> Recipe:
        values = {name: _plain(value) for name, value in self.get_params().items()}
        random_state = values.pop("random_state")
        for name, value in values.items():
            if not isinstance(value, numbers.Real):
                raise InputError(name, "a number", repr(value), "correct it")
        if not isinstance(random_state, numbers.Integral):
            random_state = check_random_state(random_state).randint(2**31 - 1)
        with _as_parameters():
            return Recipe(**values, seed=int(random_state))


@contextmanager
def _as_parameters() -> Iterator[None]:
    """Options at fault are named as the estimators' parameters."""
    try:
        yield
    except OptionError as error:
        name = error.where.removeprefix("--").replace("-", "_")
        first, space, rest = name.partition(" ")
        named = {"seed": "random_state", "transform": "preprocess"}.get(first, first)
        where = named + space + rest
        raise InputError(where, error.expected, error.found, error.remedy) from error


def _plain(value: Any) -> Any:
    """Python's own number for one of numpy's, as a search over a ``np.arange`` sets it."""
    return value.item() if isinstance(value, np.generic) else value
