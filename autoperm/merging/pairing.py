"""Which of the units of two models become one: greedily, the most alike first (Stoica et al., ZipIt, ICLR 2024, 4.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoperm.matching.streams import Moments

#: Units that are alike to this are equally alike: activations are rounded.
_SAME = 1e-6


def similarity(moments: Moments) -> np.ndarray:
    """How much units are alike: the correlation of every two rows of ``moments``; shape (rows, rows).

    Two units that are constant at one value are wholly alike, as dead ones are; another constant is like nothing.
    """
    found = moments.correlation()[0].cpu().numpy()
    mean = moments.mean_a[0].cpu().numpy()
    constant = np.diagonal(found) == 0
    gap = np.abs(mean[:, None] - mean[None, :])
    equal = gap <= _SAME * np.maximum(np.abs(mean[:, None]), np.abs(mean[None, :]))
    found[constant[:, None] & constant[None, :] & equal] = 1.0
    return found


def pair_up(alike: np.ndarray, *, within: bool, budget: float = 1.0, repeat: float = 0.0) -> np.ndarray:
    """Merge the units of two models, n each, to n: the two that are most alike first, again and again.

    Two merged units are as much like a third one as the less alike of them is, discounted by ``repeat``. Where units are
    equally alike, those of two models come before those of one, and those at one position before others.

    Arguments:
        alike: shape (2n, 2n), symmetric, units of the first model first.
        within: whether two units of one model may be merged.
        budget: the paper's beta, the share of each model's merges (n/2) that may be of two of its own units.
        repeat: the paper's alpha; 0: each unit is merged with one other, 1: merged units are merged again at no discount.

    Returns:
        For every unit the number of the merged one it is part of, shape (2, n). Merged units are in the order of their
        first members, so that in n pairs across the models they have the first model's order.

    Example:
        >>> alike = np.array([[1, 0.9, 0.2, 0], [0.9, 1, 0, 0.3], [0.2, 0, 1, 0.8], [0, 0.3, 0.8, 1]])
        >>> pair_up(alike, within=False).tolist()
        [[0, 1], [0, 1]]
        >>> pair_up(alike, within=True).tolist()
        [[0, 0], [1, 1]]
    """
    n = len(alike) // 2
    left = int(n / 2 * budget + 1e-9) if within else 0
    clusters = _Clusters(alike, [left, left], repeat if within else 0.0)
    for _ in range(n):
        clusters.merge()
    _, first, labels = np.unique(clusters.root, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[labels].reshape(2, n)


class _Clusters:
    """Units merged so far. Row and column i belong to the cluster whose first unit is i; other rows are -inf."""

    def __init__(self, alike: np.ndarray, left: list[int], repeat: float):
        size = len(alike)
        self.root = np.arange(size)
        self._left, self._repeat = left, repeat
        self._has = np.repeat(np.eye(2, dtype=bool), size // 2, axis=1)  # which models' units are in a cluster
        self._alike = np.round(alike / _SAME) * _SAME + _ties(size // 2)
        np.fill_diagonal(self._alike, -np.inf)
        for model in (0, 1):
            self._close(model)
        self._best, self._value = np.empty(size, dtype=np.int64), np.empty(size)
        self._look(np.arange(size))

    def merge(self) -> None:
        """Merge the two clusters that are most alike."""
        i = int(self._value.argmax())
        i, j = sorted((i, int(self._best[i])))
        self._spend(i, j)
        joint = np.minimum(self._alike[i], self._alike[j])
        if self._repeat == 0:
            joint[:] = -np.inf
        joint[joint > -np.inf] -= (1 - self._repeat) * np.abs(joint[joint > -np.inf])
        self._has[:, i] |= self._has[:, j]
        self.root[self.root == j] = i
        self._put(j, np.full_like(joint, -np.inf))
        joint[[i, j]] = -np.inf
        for model in (0, 1):
            if not self._left[model] and self._has[model, i]:
                joint[self._has[model]] = -np.inf
        self._put(i, joint)
        # What is left is no more alike than before, so only rows whose best was one of the two have another best.
        self._look(np.flatnonzero(np.isin(self._best, (i, j)) | np.isin(np.arange(len(joint)), (i, j))))

    def _spend(self, i: int, j: int) -> None:
        """Two clusters with units of one model are one merge within it."""
        for model in (0, 1):
            if self._has[model, i] and self._has[model, j]:
                self._left[model] -= 1
                if not self._left[model]:
                    self._close(model)
                    self._look(np.arange(len(self.root)))

    def _close(self, model: int) -> None:
        """Where nothing is left of a model's budget, no two clusters with its units are merged."""
        if not self._left[model]:
            self._alike[np.ix_(self._has[model], self._has[model])] = -np.inf

    def _put(self, i: int, row: np.ndarray) -> None:
        self._alike[i] = self._alike[:, i] = row

    def _look(self, rows: np.ndarray) -> None:
        self._best[rows] = self._alike[rows].argmax(axis=1)
        self._value[rows] = self._alike[rows, self._best[rows]]


def _ties(n: int) -> np.ndarray:
    """Less than any difference that counts: pairs across models, at one position first."""
    across = np.kron(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones((n, n)) + np.eye(n))
    return across * (_SAME / 8)


def merging(labels: np.ndarray, weights: list[float]) -> list[Tensor]:
    """For each model its part of the merge matrix: what a merged unit is the mean of; each of shape (n, n), float64.

    Row m of them together sums to one. Members count by their models' weights, all alike where those are zero.
    """
    n = labels.shape[1]
    count = torch.zeros(n, 2 * n, dtype=torch.float64, device="cpu")
    count[torch.from_numpy(labels.reshape(-1)), torch.arange(2 * n, device="cpu")] = 1.0
    weighted = count * torch.tensor(weights, dtype=torch.float64, device="cpu").repeat_interleave(n)
    total = weighted.sum(1, keepdim=True)
    found = torch.where(total > 0, weighted / torch.where(total > 0, total, 1.0), count / count.sum(1, keepdim=True))
    return list(found.split(n, dim=1))


def unmerging(labels: np.ndarray) -> list[Tensor]:
    """For each model its part of the unmerge matrix, transposed: entry (m, i) is 1 where unit i is part of merged unit m.

    Each of shape (n, n), float64: weights that read the units of a model read with it the merged ones.
    """
    n = labels.shape[1]
    return [torch.nn.functional.one_hot(torch.from_numpy(own), n).double().T for own in labels]
