"""The weights of merged units: what is made is averaged, what is read is added up (Stoica et al., ZipIt, ICLR 2024, 4.1).

For a linear layer with rows in one group and columns in another that is M diag(W_a, W_b) U, which is the sum over the models
of M_k W_k U_k; here it is applied along the leaves of every cell of every tensor, whatever its layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autoperm.matching.soft import mix
from autoperm.matching.unfold import Unfolding, unfoldings
from autoperm.merging.pairing import merging, unmerging
from autoperm.merging.roles import Roles
from autoperm.spec import PermutationSpec


class Mixer:
    """Merges the tensors of two models.

    Arguments:
        labels: for each zipped group the merged unit of every unit, shape (2, n); other groups stay as they are.
        shares: one weight per model, summing to one.
    """

    def __init__(self, spec: PermutationSpec, roles: Roles, labels: Mapping[int, np.ndarray], shares: Sequence[float]):
        self._spec, self._roles, self._shares = spec, roles, list(shares)
        self._made = {g: merging(found, self._shares) for g, found in labels.items()}
        self._read = {g: unmerging(found) for g, found in labels.items()}

    def merged(self, home: str, tensors: Sequence[Tensor]) -> Tensor:
        """One tensor of both models as the merged model has it; sums are in double precision, rounded once.

        Integers are the first model's.
        """
        first = tensors[0].detach()
        if not (first.is_floating_point() or first.is_complex()):
            return first.clone()
        wide = torch.promote_types(first.dtype, torch.float64)
        total = torch.zeros(first.shape, dtype=wide, device=first.device)
        for k, tensor in enumerate(tensors):
            total += self._part(k, home, tensor.detach().to(wide))
        return total.to(first.dtype)

    def _part(self, k: int, home: str, tensor: Tensor) -> Tensor:
        """What a model adds. Where nothing is made, the mean over the models is taken of what they make."""
        share = self._shares[k]
        if home not in self._spec.layouts:
            return self._scaled(tensor, share)
        out = self._scaled(tensor, share)
        for u in unfoldings(self._spec.action, home, self._spec.layouts[home]):
            made = any(role == "made" for _, _, role in self._occurrences(u))
            cell = u.of(tensor)
            for g, axes, role in self._occurrences(u):
                cell = mix(cell, (self._made if role == "made" else self._read)[g][k], [], axes)
            out = u.write(out, cell if made else self._scaled(cell, share))
        return out

    def _occurrences(self, u: Unfolding) -> list[tuple[int, tuple[int, ...], str]]:
        """The zipped groups in a cell, each with its axes and the part of the dimension that they are in."""
        found = []
        for g in self._made:
            for axes in u.occurrences(self._spec.groups[g].leaves):
                found.append((g, axes, self._roles.of[u.name, u.dims[axes[0]]]))
        return found

    def _scaled(self, tensor: Tensor, share: float) -> Tensor:
        return tensor * share if share else torch.zeros_like(tensor)  # zero times infinity is NaN
