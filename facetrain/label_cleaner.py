"""Label cleaning as a scikit-learn estimator."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from facetrain.api import clean_labels
from facetrain.core.errors import ConfigError
from facetrain.data.cleaning_result import CleaningResult, Reason
from facetrain.data.features import unit_rows

_MOST_SCALE = 256.0
_CLASSES, _IMAGES = 8, 4
"""A set with fewer such classes cannot be its own source."""


class LabelCleaner(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Finds the wrong labels of a set of embeddings; a classifier by the images that it keeps.

    `fit` is `facetrain.clean_labels`. `predict_proba` compares with the mean direction of each
    class's kept images: softmax of scale x cosine, the scale fitted to the kept images, each
    judged without itself.

    Args:
        options: keys of a recipe's section `clean`, as {"apply_suggestions": True}, but the seed.
        random_state: the seed is drawn from it.

    Attributes:
        classes_: (C,) the labels, in order.
        kept_: (N,) whether each label of the training set is kept.
        clean_probability_: (N,) that each label is right.
        label_: (N,) the labels, with the one that an image belongs to where that was found.
        result_: everything that was found, as a `CleaningResult` whose labels index `classes_`.
        n_features_in_: D.
    """

    def __init__(self, *, options: dict[str, Any] | None = None, random_state: Any = 0) -> None:
        self.options = options
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "LabelCleaner":
        """Judge the labels y (N,), of any type, of the embeddings X (N, D).

        A set with fewer than 8 classes of at least 4 images is too small to learn noise from: a
        warning says so, and every label is kept.
        """
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64], ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        if "seed" in (self.options or {}):
            raise ConfigError("options must not name the seed; it is drawn from random_state")
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        if np.count_nonzero(np.bincount(label) >= _IMAGES) >= _CLASSES:
            self.result_ = clean_labels(X, label, seed=seed, **(self.options or {}))
        else:
            warnings.warn(
                f"cleaning needs {_CLASSES} classes of at least {_IMAGES} images to learn from; "
                "this set has fewer, and every label is kept",
                UserWarning,
                stacklevel=2,
            )
            self.result_ = _all_kept(label)
        self.kept_ = self.result_.kept
        self.clean_probability_ = self.result_.clean_probability
        moved = self.result_.suggested_label
        self.label_ = self.classes_[np.where(moved >= 0, moved, label)]
        self._fit_classes(unit_rows(X), label)
        return self

    def _fit_classes(self, unit: NDArray[np.float32], label: NDArray[np.int64]) -> None:
        """Class centres and the scale of their cosines, from the kept images (N, D)."""
        sums = np.zeros((len(self.classes_), unit.shape[1]))
        np.add.at(sums, label[self.kept_], unit[self.kept_])
        empty = np.bincount(label[self.kept_], minlength=len(sums)) == 0
        np.add.at(sums, label[empty[label]], unit[empty[label]])  # nothing of it was kept
        self.centre_ = unit_rows(np.where(sums.any(1, keepdims=True), sums, 1.0))
        several = self.kept_ & (np.bincount(label[self.kept_], minlength=len(sums))[label] > 1)
        unit, label = unit[several].astype(np.float64), label[several]
        if len(label) == 0:
            self.scale_ = 1.0
            return
        cosine = unit @ self.centre_.T  # (M, C)
        without = sums[label] - unit
        length = np.maximum(np.linalg.norm(without, axis=1), 1e-12)
        rows = np.arange(len(label))
        cosine[rows, label] = np.einsum("nd,nd->n", without, unit) / length

        def loss(log_scale: float) -> float:
            return -float(log_softmax(np.exp(log_scale) * cosine, axis=1)[rows, label].mean())

        found = minimize_scalar(loss, bounds=(0.0, np.log(_MOST_SCALE)), method="bounded")
        self.scale_ = float(np.exp(found.x))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(M, C) probability of each class for embeddings (M, D), by the kept images."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        probability: NDArray[np.float64] = softmax(
            self.scale_ * (unit_rows(X).astype(np.float64) @ self.centre_.T), axis=1
        )
        return probability

    def predict(self, X: Any) -> NDArray[Any]:
        """(M,) the most probable class of embeddings (M, D)."""
        place = self.predict_proba(X).argmax(axis=1)
        predicted: NDArray[Any] = self.classes_[place]
        return predicted


def _all_kept(label: NDArray[np.int64]) -> CleaningResult:
    """Nothing said of N images with dense labels."""
    none, zero = np.full(len(label), -1), np.zeros(len(label), np.float32)
    class_id = np.unique(label)
    return CleaningResult(
        clean_probability=np.ones(len(label), np.float32),
        kept=np.ones(len(label), np.bool_),
        suggested_label=none,
        suggested_probability=zero,
        reason=np.full(len(label), Reason.NOT_JUDGED, np.uint8),
        merge_label=none.copy(),
        duplicate_of=none.copy(),
        overlap=np.zeros(len(label), np.bool_),
        class_id=class_id,
        threshold=np.full(len(class_id), 0.5, np.float32),
    )
