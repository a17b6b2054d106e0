"""Classification by as many coordinates as a sample needs: a cascade of the heads of nested sizes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from holonomy.models.representation.matryoshka.nested import check_nesting

__all__ = ["AdaptiveClassifier"]


class AdaptiveClassifier:
    """Stop at the first size whose largest probability is above its threshold (paper, section 4.2.1, MRL-AC).

    Parameters
    ----------
    nesting : sequence of int
        Sizes of the logits, strictly rising.
    thresholds : sequence of float, optional
        One for each size but the last, which always answers; set by `fit` when left out. 0 stops at once, above 1
        never does.

    Attributes
    ----------
    thresholds_ : ndarray
        Those in use.

    Raises
    ------
    ValueError
        If sizes do not rise, or thresholds are negative or not as many.
    """

    def __init__(self, nesting: Sequence[int], thresholds: Sequence[float] | None = None) -> None:
        self.nesting = check_nesting("AdaptiveClassifier", nesting, max(nesting, default=1))
        self.thresholds = thresholds
        if thresholds is not None:
            found = np.asarray(thresholds, dtype=float)
            if found.shape != (len(self.nesting) - 1,) or not (np.isfinite(found) & (found >= 0)).all():
                raise ValueError(
                    f"AdaptiveClassifier: 'thresholds' must be {len(self.nesting) - 1} numbers that are not negative, "
                    f"got {thresholds}"
                )
            self.thresholds_ = found

    def fit(self, logits: Sequence[Tensor], y: Tensor, grid: int = 101, tolerance: float = 0.0) -> "AdaptiveClassifier":
        """Choose thresholds on held-out samples.

        From the last size but one to the first, each is the least of an even grid from 0 to 1 at which the cascade from
        this size on is most accurate, or nearly: among those, the one that stops most.

        Parameters
        ----------
        logits : sequence of Tensor
            (n, L), one a size.
        y : Tensor
            Classes (n,).
        grid : int, default 101
            Values tried.
        tolerance : float, default 0
            Accuracy that a stage may give up for stopping more.

        Raises
        ------
        ValueError
            Where there are not as many logits as sizes, their lengths differ, or `tolerance` is negative.
        """
        if not tolerance >= 0.0:
            raise ValueError(f"AdaptiveClassifier: 'tolerance' must not be negative, got {tolerance}")
        probabilities, labels = self._read(logits)
        if y.shape != (len(labels[0]),):
            raise ValueError(f"AdaptiveClassifier: 'y' must be {(len(labels[0]),)}, got {tuple(y.shape)}")
        tried = torch.linspace(0.0, 1.0, grid, dtype=probabilities[0].dtype, device=y.device)
        right = labels[-1] == y
        found: list[float] = []
        for p, label in zip(reversed(probabilities[:-1]), reversed(labels[:-1]), strict=True):
            stops = p >= tried.unsqueeze(1)  # (grid, n)
            scores = torch.where(stops, label == y, right).double().mean(1)
            best = int((scores >= scores.max() - tolerance - 1e-12).nonzero()[0])
            found.append(float(tried[best]))
            right = torch.where(stops[best], label == y, right)
        self.thresholds_ = np.array(found[::-1])
        return self

    def predict(self, logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Classify.

        Parameters
        ----------
        logits : sequence of Tensor
            (n, L), one a size.

        Returns
        -------
        labels : Tensor
            (n,), int64.
        dims_used : Tensor
            (n,), int64: the size that answered.

        Raises
        ------
        ValueError
            As `fit`.
        sklearn.exceptions.NotFittedError
            Without thresholds.
        """
        if not hasattr(self, "thresholds_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this AdaptiveClassifier has no thresholds: give some, or call fit first")
        probabilities, labels = self._read(logits)
        result, used = labels[-1].clone(), torch.full_like(labels[-1], self.nesting[-1])
        for i in reversed(range(len(self.thresholds_))):
            stops = probabilities[i] >= self.thresholds_[i]
            result = torch.where(stops, labels[i], result)
            used = torch.where(stops, torch.full_like(used, self.nesting[i]), used)
        return result, used

    def _read(self, logits: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if len(logits) != len(self.nesting) or len({len(part) for part in logits}) != 1:
            raise ValueError(
                f"AdaptiveClassifier: wanted logits (n, L) for each of {self.nesting}, got shapes "
                f"{[tuple(part.shape) for part in logits]}"
            )
        tops = [torch.softmax(part.detach().double(), -1).max(-1) for part in logits]
        return [top.values for top in tops], [top.indices for top in tops]
