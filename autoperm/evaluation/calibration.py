"""Whether a classifier is right as often as it says (Guo, Pleiss, Sun and Weinberger, ICML 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from autoperm.errors import AutopermError
from autoperm.options import check_number

#: Rows that are at least zero and sum to one within this are probabilities: bfloat16 rounds each entry to 1 part in 256.
_ROUNDING = 1e-2


@dataclass(frozen=True)
class Calibration:
    """The reliability of a classifier's confidence, bin by bin.

    Attributes:
        edges: the borders of the bins, shape (bins + 1,), from 0 to 1; a bin holds its upper border.
        confidence: the mean probability of the predicted class in each bin, shape (bins,), NaN in an empty one.
        accuracy: the share of right predictions in each bin, shape (bins,), NaN in an empty one.
        count: the number of predictions in each bin, shape (bins,).
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """|accuracy - confidence| in each bin, shape (bins,), 0 in an empty one."""
        return np.nan_to_num(np.abs(self.accuracy - self.confidence))

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean gap, every prediction counted once."""
        return float((self.count * self.gaps).sum() / self.count.sum())

    @property
    def mce(self) -> float:
        """The largest gap of any bin."""
        return float(self.gaps.max())

    @property
    def mean_confidence(self) -> float:
        """The mean confidence of all predictions."""
        return self._mean(self.confidence)

    @property
    def mean_accuracy(self) -> float:
        """The accuracy of all predictions."""
        return self._mean(self.accuracy)

    def _mean(self, values: np.ndarray) -> float:
        return float((self.count * np.nan_to_num(values)).sum() / self.count.sum())

    def __repr__(self) -> str:
        return (
            f"<Calibration: ECE {self.ece:.4g}, confidence {self.mean_confidence:.4g}, accuracy "
            f"{self.mean_accuracy:.4g} of {int(self.count.sum())} predictions in {len(self.count)} bins>"
        )


def calibration(outputs: torch.Tensor, labels: torch.Tensor, bins: int = 15, *, probabilities: bool | None = None) -> Calibration:
    """Sort predictions into bins of equal width by confidence, and compare with how many are right.

    Arguments:
        outputs: logits, log probabilities or probabilities, shape (n, classes). Any precision; computed in float64.
        labels: the right classes, integers of shape (n,).
        bins: how many.
        probabilities: whether ``outputs`` are probabilities. None finds out: they are if every row is at least zero and
            sums to one, within the rounding of half precision.

    Raises:
        AutopermError: shapes that do not fit, no rows, labels that are not classes, NaN or infinity, rows that
            are not probabilities where they are said to be, or fewer than one bin.

    Example:
        >>> import torch
        >>> from autoperm.evaluation import calibration
        >>> outputs = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.25]])
        >>> calibration(outputs, torch.tensor([0, 1, 0, 1]))
        <Calibration: ECE 0, confidence 0.75, accuracy 0.75 of 4 predictions in 15 bins>
    """
    for name, value in (("outputs", outputs), ("labels", labels)):
        if not isinstance(value, torch.Tensor) or value.is_meta or value.is_complex():
            raise AutopermError(f"{name} must be a tensor of real numbers, not a {type(value).__name__}")
    check_number("bins", bins, whole=True)
    outputs, labels = outputs.detach().cpu().double(), labels.detach().cpu()
    _check(outputs, labels, bins)
    rows = _probabilities(outputs, probabilities)
    confidence, predicted = rows.max(dim=1)
    edges = np.linspace(0.0, 1.0, bins + 1)
    at = np.searchsorted(edges[1:-1], confidence.numpy(), side="left")
    count = np.bincount(at, minlength=bins)
    right = np.bincount(at, weights=(predicted == labels).double().numpy(), minlength=bins)
    sure = np.bincount(at, weights=confidence.numpy(), minlength=bins)
    with np.errstate(invalid="ignore"):
        return Calibration(edges, sure / count, right / count, count)


def _probabilities(outputs: torch.Tensor, probabilities: bool | None) -> torch.Tensor:
    """Rows that sum to one."""
    sums = outputs.sum(dim=1, keepdim=True)
    off = (sums - 1).abs().amax(dim=1) + (-outputs).clamp(min=0).amax(dim=1)
    fit = bool((off < _ROUNDING).all()) and bool((outputs >= 0).all())
    if probabilities and not fit:
        worst = int(off.argmax())
        raise AutopermError(
            f"row {worst} of outputs is not a distribution (sum {float(sums[worst]):.4g}, least entry "
            f"{float(outputs[worst].min()):.4g}); pass probabilities=False for logits"
        )
    return outputs / sums if fit and probabilities is not False else outputs.softmax(dim=1)


def _check(outputs: torch.Tensor, labels: torch.Tensor, bins: int) -> None:
    if bins < 1:
        raise AutopermError(f"calibration needs at least 1 bin, got {bins}")
    if outputs.ndim != 2 or outputs.shape[1] < 2 or labels.shape != outputs.shape[:1]:
        raise AutopermError(
            f"outputs of shape (n, classes) with 2 classes at least and labels of shape (n,) are needed, "
            f"got {tuple(outputs.shape)} and {tuple(labels.shape)}"
        )
    if len(outputs) == 0:
        raise AutopermError("there are no predictions to calibrate: outputs has no rows")
    if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= outputs.shape[1]:
        raise AutopermError(
            f"labels are integers from 0 to {outputs.shape[1] - 1}, got {labels.dtype} from {labels.min()} to {labels.max()}"
        )
    largest = outputs.amax(dim=1)  # minus infinity is the logarithm of a probability of zero, unless all are
    if wrong := int((~largest.isfinite()).sum()):
        raise AutopermError(f"outputs holds NaN or infinity in {wrong} of {len(outputs)} rows")
