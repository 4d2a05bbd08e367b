"""Model b's tensors under the current element, made where they are asked for.

A permuted copy of a whole model is as large as the model. Only some copies are kept, the last ones used. Where a tensor's
dimensions move independently of one another, its rows and columns can be read without a copy: :meth:`Current.indices`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from autoperm.gathering import alone, gather, index_along, source_along
from autoperm.layout import Action, Factor, Factors, Layout

#: The share of a model's size that permuted copies may take, apart from the one used last.
KEPT_SHARE = 0.25

#: For each dimension of a tensor the positions that are read.
Indices = tuple[np.ndarray, ...]


class Current(Mapping[str, torch.Tensor]):
    """Tensors under an element, by name.

    Arguments:
        given: the tensors as they are; they are not changed.
        dtypes: what each is to be widened to.
        element: for each group its array. It belongs to the caller, who calls :meth:`changed` after changing it.
    """

    def __init__(
        self,
        action: Action,
        layouts: Mapping[str, Layout],
        given: Mapping[str, torch.Tensor],
        dtypes: Mapping[str, torch.dtype],
        element: Sequence[np.ndarray],
    ):
        self._action, self._layouts, self._dtypes = action, layouts, dtypes
        self.given, self.element = given, element
        self._copies: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._indices: dict[str, Indices | None] = {}
        self._apart: dict[str, bool] = {}
        self._away: set[str] = set()
        self._most = KEPT_SHARE * sum(_bytes(t) for t in given.values())

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self._copies.pop(name, None)
        if found is None:
            found = self.given[name]
            if name in self._away:
                found = gather(self._action, self._layouts[name], self.element, found)
            found = found.to(self._dtypes[name])
        if found is not self.given[name]:
            self._copies[name] = found
            self._forget()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)

    def __or__(self, other: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(self) | dict(other)

    def changed(self, names: Iterable[str]) -> None:
        """Say that the element has changed where it acts on these tensors."""
        for name in names:
            self._copies.pop(name, None)
            self._indices.pop(name, None)
            self._away.add(name)

    def apart(self, name: str) -> bool:
        """Whether the tensor's dimensions move independently of one another."""
        if name not in self._apart:
            layout = self._layouts[name]
            self._apart[name] = all(alone(layout, self._action, j) for j in range(len(layout.shape)))
        return self._apart[name]

    def indices(self, name: str) -> Indices | None:
        """The positions read along each dimension; None where the dimensions depend on one another."""
        if name not in self._indices:
            layout, dims = self._layouts[name], range(len(self._layouts[name].shape))
            found = (index_along(self._action, layout, self.element, j) for j in dims)
            self._indices[name] = tuple(found) if self.apart(name) else None
        return self._indices[name]

    def order(self, leaves: Sequence[int]) -> np.ndarray:
        """The positions that the product of leaves reads from; they must depend on nothing but each other."""
        size = math.prod(self._action.leaves[leaf].size for leaf in leaves)
        return source_along(self._action, Factors(Factor(leaf) for leaf in leaves), size, self.element)

    def _forget(self) -> None:
        """Drop the copies that were used longest ago, all but the last if need be."""
        held = sum(map(_bytes, self._copies.values()))
        while held > self._most and len(self._copies) > 1:
            held -= _bytes(self._copies.popitem(last=False)[1])


def read(tensor: torch.Tensor, indices: Sequence[np.ndarray]) -> torch.Tensor:
    """The entries at some positions along every dimension; no copy where these are in order."""
    by_share = sorted(range(tensor.ndim), key=lambda j: len(indices[j]) / max(tensor.shape[j], 1))
    for j in by_share:  # what makes it smallest comes first
        index = indices[j]
        if _in_order(index, tensor.shape[j], j):
            tensor = tensor.narrow(j, int(index[0]), len(index))
        else:
            tensor = tensor.index_select(j, torch.from_numpy(index).to(tensor.device))
    return tensor


def _in_order(index: np.ndarray, size: int, dim: int) -> bool:
    """Whether positions are a dimension as it is, or a part of the first one: what is a block in memory needs no copy."""
    if len(index) == 0 or (dim != 0 and len(index) != size):
        return False
    return np.array_equal(index, np.arange(index[0], index[0] + len(index)))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
