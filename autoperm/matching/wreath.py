"""The best element of a wreath: positions that trade places, each with positions of its own (heads and their dimensions).

What a pair of heads is worth is an assignment over their dimensions, and which heads to pair an assignment over that.
Few of the inner assignments are needed: prices of the dimensions bound each from above (linear programming duality),
heads are assigned on the bounds, the pairs chosen are solved exactly, and so on until all that are chosen are exact. No
other choice can be better then, so that the result is the optimum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from autoperm.matching.assignment import assign

#: Temperatures of the scaling behind the bounds, as shares of the standard deviation of the entries.
_TEMPERATURES = (0.2, 0.1, 0.05)

#: Entries to look at at a time: they stay in the cache.
_CHUNK = 1 << 17

#: In how many bands to add to a Gram matrix.
_BANDS = 8

#: Up to this many pairs, all are solved exactly.
_FEW = 9


class Pairs:
    """What pairs of positions are worth by the positions that depend on them.

    Arguments:
        n, m: how many positions there are, and how many depend on each.
        parts: pairs of tensors of models a and b, each of shape (n, m, r): a row for each position and each of its own.
            The Gram matrix of two positions is the sum over parts of <a[i], b[j]>, of shape (m, m).
        keep: whether to keep the Gram matrices of all pairs, which are (n m)² numbers.
        more: to be added to these, of shape (n, m, n, m); it is used up.
    """

    def __init__(
        self,
        n: int,
        m: int,
        parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        *,
        keep: bool = True,
        more: torch.Tensor | None = None,
    ):
        self.n, self.m, self._parts = n, m, parts
        self._whole = self._with(more) if keep else None
        self._prices = np.zeros((self.n, self.n, self.m))

    def _with(self, more: torch.Tensor | None) -> torch.Tensor:
        """The Gram matrices of all positions, and more."""
        if more is None:
            return self._product(slice(None))
        if not self._parts:
            return more.cpu()
        wide = functools.reduce(torch.promote_types, (a.dtype.to_real() for a, _ in self._parts), more.dtype)
        more, step = more.to(wide), -(-self.n // _BANDS)
        for i in range(0, self.n, step):  # in place, so that there is no second matrix of this size
            more[i : i + step] += self._product(slice(i, i + step)).to(more.device)
        return more.cpu()

    def _product(self, which: slice) -> torch.Tensor:
        """The Gram matrices of some positions with all positions, shape (some, m, n, m)."""
        total = torch.zeros((), device="cpu")
        for a, b in self._parts:
            rows, columns = a[which].reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2])
            total = total.to(a.device) + (rows @ columns.conj().T).real
        some = len(range(*which.indices(self.n)))
        return total.expand(some * self.m, self.n * self.m).reshape(some, self.m, self.n, self.m).cpu()

    def _gram(self, i: int, j: int) -> np.ndarray:
        if self._whole is not None:
            return self._whole[i, :, j].numpy()
        return sum(((a[i] @ b[j].conj().T).real for a, b in self._parts), torch.zeros((), device="cpu")).cpu().numpy()

    def unmoved(self) -> float:
        """What all positions are worth as they are."""
        return float(sum(np.trace(self._gram(i, i), dtype=np.float64) for i in range(self.n)))

    def exact(self, i: int, j: int) -> tuple[np.ndarray, float]:
        """The best permutation for position i that reads from position j, and its value."""
        gram = self._gram(i, j)
        best, _ = assign(gram - self._prices[i, j])  # the same optimum, found sooner
        return best, float(gram[np.arange(self.m), best].sum(dtype=np.float64))

    def bounds(self) -> np.ndarray:
        """For every pair at least what it is worth, shape (n, n)."""
        found = np.empty((self.n, self.n))
        for i in range(self.n):
            band = self._product(slice(i, i + 1))[0] if self._whole is None else self._whole[i]
            band = band.transpose(0, 1)  # (n, m, m)
            step = max(1, _CHUNK // self.m**2)
            for j in range(0, self.n, step):
                bound, prices = _bound(band[j : j + step])
                found[i, j : j + step], self._prices[i, j : j + step] = bound.numpy(), prices.numpy()
        return found


def _bound(grams: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper bounds (p,) on assignments over matrices (p, m, m), by a few passes of Sinkhorn scaling; and the prices (p, m)."""
    prices = torch.zeros(grams.shape[:2], dtype=grams.dtype, device="cpu")
    spread = float(grams.std(correction=0))
    for share in _TEMPERATURES if spread > 0 else ():
        wishes = torch.sub(grams, prices[:, None]).mul_(1 / (share * spread))
        wishes -= wishes.amax(2, keepdim=True)
        wishes.clamp_(min=-60).exp_()  # numbers too small to be normal are slow
        wanted = torch.bmm(wishes.sum(2).reciprocal_()[:, None], wishes)[:, 0]
        prices += share * spread * wanted.log_()
    best = torch.sub(grams, prices[:, None]).amax(2)
    rounding = 4 * torch.finfo(grams.dtype).eps * (best.abs() + prices.abs()).sum(1, dtype=torch.float64)
    return best.sum(1, dtype=torch.float64) + prices.sum(1, dtype=torch.float64) + rounding, prices


def best_wreath(base: np.ndarray, dependents: Sequence[Pairs]) -> tuple[np.ndarray, list[np.ndarray], float]:
    """The best permutation of n positions together with those of the positions that depend on them: exact.

    Arguments:
        base: what position i gains by reading position j apart from the dependents, shape (n, n).
        dependents: one :class:`Pairs` for each group that depends on these positions.

    Returns:
        The permutation (n,), that of each dependent for every position (n, m), and the value of all.

    Example:
        >>> import numpy as np, torch
        >>> heads = torch.tensor([[[1.0], [2.0]], [[5.0], [3.0]]])  # two heads with two dimensions
        >>> outer, inner, value = best_wreath(np.zeros((2, 2)), [Pairs(2, 2, [(heads, heads[[1, 0]])])])
        >>> outer.tolist(), inner[0].tolist(), value
        ([1, 0], [[0, 1], [0, 1]], 39.0)
    """
    n = len(base)
    total, known = base.astype(np.float64), np.zeros((n, n), dtype=bool)
    found: dict[tuple[int, int], list[np.ndarray]] = {}

    def solve(i: int, j: int) -> None:
        solved = [pairs.exact(i, j) for pairs in dependents]
        found[i, j] = [best for best, _ in solved]
        total[i, j], known[i, j] = base[i, j] + sum(value for _, value in solved), True

    if n * n <= _FEW:
        for i, j in np.ndindex(n, n):
            solve(i, j)
    else:
        for pairs in dependents:
            total += pairs.bounds()
    while True:
        outer, value = assign(total)
        new = [i for i in range(n) if not known[i, outer[i]]]
        if not new:
            break
        for i in new:
            solve(i, int(outer[i]))
    chosen = [found[i, int(outer[i])] for i in range(n)]
    return outer, [np.stack([own[d] for own in chosen]) for d in range(len(dependents))], value
