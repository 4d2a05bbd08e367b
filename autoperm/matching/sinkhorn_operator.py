"""The Sinkhorn operator, differentiated where it has converged (Eisenberger et al., CVPR 2022, Theorem 3).

The gradient comes from the equations that the result satisfies, its rows and columns sum to 1: one linear system of
n unknowns, whatever the number of iterations, of which nothing need be kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sinkhorn(scores: Tensor, *, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The doubly stochastic matrices exp(scores + r_i + c_j), which torch can differentiate once.

    The gradient is exact where the iterations have converged, and otherwise off by as much as they are.

    Arguments:
        scores: shape (..., n, n).
        iterations: the most times that rows and then columns are normalised.
        tolerance: it ends where the logarithm of no row's sum is above that.

    Returns:
        The matrices: columns sum to 1, and rows do once it has converged.

    Example:
        >>> import torch
        >>> matrix = sinkhorn(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
        >>> torch.allclose(matrix.sum(0), torch.ones(4)) and torch.allclose(matrix.sum(1), torch.ones(4), atol=1e-5)
        True
    """
    return _Sinkhorn.apply(scores, iterations, tolerance)  # type: ignore[no-any-return]


def normalised(scores: Tensor, *, iterations: int, tolerance: float = 1e-6) -> Tensor:
    """The logarithms of those matrices: the scores, with numbers added to rows and to columns."""
    for done in range(iterations):
        rows = scores.logsumexp(-1, keepdim=True)
        if done and float(rows.abs().max()) <= tolerance:
            break
        scores = scores - rows
        scores = scores - scores.logsumexp(-2, keepdim=True)
    return scores


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, iterations: int, tolerance: float) -> Tensor:
        matrices = normalised(scores, iterations=iterations, tolerance=tolerance).exp()
        ctx.save_for_backward(matrices)
        return matrices

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (matrices,) = ctx.saved_tensors
        p, g = matrices.double(), slope.double()
        rows, columns = (p * g).sum(-1, keepdim=True), (p * g).sum(-2).unsqueeze(-1)
        # (r, c) move so that sums stay 1. The adjoint of that is [1 P; P' 1] y = (rows, columns), from which the rows'
        # part is eliminated. It is singular along constants, which do not matter; and nearly so near permutations, where
        # y does not matter: it is multiplied by P, and cancels where P is 1.
        n = p.shape[-1]
        system = torch.eye(n, dtype=p.dtype, device=p.device) * (1 + 1e-13) - p.mT @ p + 1 / n
        below = torch.linalg.solve(system, columns - p.mT @ rows)
        beside = rows - p @ below
        return (p * (g - beside - below.mT)).to(slope.dtype), None, None
