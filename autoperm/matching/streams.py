"""Means, variances and cross products of streams of samples, in one pass and in double precision."""

from __future__ import annotations

import math

import torch


class Moments:
    """The first two moments of samples of a and b, updated batch by batch (Chan, Golub and LeVeque 1983).

    Batches are merged by their own means, so that nothing cancels where means are large.

    Attributes:
        count: the number of samples so far.
        cross: the sum over samples of (a - mean of a) times (b - mean of b), for every row of a and of b, shape
            (p, n, n) for samples of shape (p, n, samples).

    Example:
        >>> import torch
        >>> x = torch.randn(1, 3, 100)
        >>> moments = Moments()
        >>> for part in x.split(30, dim=-1):
        ...     moments.add(part, 2 * part + 1)
        >>> moments.count, torch.allclose(moments.correlation().diagonal(dim1=1, dim2=2), torch.ones(1, 3).double())
        (100, True)
    """

    def __init__(self) -> None:
        self.count = 0
        self._noise = 0.0  # the relative spread below which a row is constant, to rounding
        self.mean_a = self.mean_b = self.square_a = self.square_b = self.cross = torch.zeros((), device="cpu")

    def add(self, a: torch.Tensor, b: torch.Tensor, *, precision: float = 0.0) -> None:
        """Take in samples of both, shape (p, n, samples).

        Arguments:
            precision: the rounding error of the numbers relative to their size, where they were computed in less than
                double precision.
        """
        a, b = a.double(), b.double()
        self._noise = max(self._noise, 4 * precision, 4 * torch.finfo(torch.float64).eps)
        fresh, total = a.shape[-1], self.count + a.shape[-1]
        if not fresh:
            return
        if not self.count:
            self.mean_a, self.mean_b = (torch.zeros_like(t[..., 0]) for t in (a, b))
            self.square_a, self.square_b = torch.zeros_like(self.mean_a), torch.zeros_like(self.mean_b)
            self.cross = a.new_zeros(*a.shape[:2], b.shape[1])
        mean_a, mean_b = a.mean(-1), b.mean(-1)
        far_a, far_b = mean_a - self.mean_a, mean_b - self.mean_b
        weight = math.sqrt(self.count * fresh / total)
        # How far the means are apart counts as one more sample.
        a = torch.cat([a - mean_a[..., None], weight * far_a[..., None]], dim=-1)
        b = torch.cat([b - mean_b[..., None], weight * far_b[..., None]], dim=-1)
        self.square_a += a.square().sum(-1)
        self.square_b += b.square().sum(-1)
        self.cross.baddbmm_(a, b.mT)  # in place: for wide layers this is the largest tensor of all
        self.mean_a += far_a * (fresh / total)
        self.mean_b += far_b * (fresh / total)
        self.count = total

    def correlation(self) -> torch.Tensor:
        """Pearson's correlation of every row of a with every row of b, shape (p, n, n); 0 where one is constant."""
        scale_a, scale_b = (self._inverse_root(m, s) for m, s in ((self.mean_a, self.square_a), (self.mean_b, self.square_b)))
        return (self.cross * scale_a[:, :, None]).mul_(scale_b[:, None, :])

    def inner(self) -> torch.Tensor:
        """The mean over samples of the product of every row of a with every row of b, shape (p, n, n)."""
        return (self.cross / self.count).baddbmm_(self.mean_a[:, :, None], self.mean_b[:, None, :])

    def _inverse_root(self, mean: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        size = mean.square() + square / self.count
        constant = square / self.count <= self._noise**2 * size
        return torch.where(constant, 0.0, square.clamp_min(torch.finfo(torch.float64).tiny).rsqrt())


class Spread:
    """The mean and standard deviation of samples, updated batch by batch in the same way.

    Attributes:
        count: the number of samples so far.
        mean: of every row, shape (n,) for samples of shape (n, samples).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._square = torch.zeros((), device="cpu")

    def add(self, rows: torch.Tensor) -> None:
        """Take in samples, shape (n, samples)."""
        rows = rows.double()
        fresh, total = rows.shape[-1], self.count + rows.shape[-1]
        if not fresh:
            return
        mean = rows.mean(-1)
        far = mean - self.mean
        self._square = self._square + (rows - mean[:, None]).square().sum(-1) + far.square() * (self.count * fresh / total)
        self.mean = self.mean + far * (fresh / total)
        self.count = total

    @property
    def deviation(self) -> torch.Tensor:
        """The standard deviation of every row over all samples, shape (n,)."""
        return (self._square / self.count).sqrt()
