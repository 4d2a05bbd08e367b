"""Gram matrices: how well every position of a group in model a agrees with every position in model b.

They are most of the work of matching. They are kept, in model b's original order, with the orders of the other
dimensions that they were computed from: where another group has moved a tenth of its positions since, a tenth of the
products is exchanged. Where the group itself has moved, columns trade places.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import torch

from autoperm.matching.current import Current, Indices, read
from autoperm.matching.problem import Problem
from autoperm.matching.room import zeros
from autoperm.matching.unfold import Unfolding

#: The most that kept matrices may take: a share of a model's size, and bytes.
KEPT_SHARE, KEPT_BYTES = 0.35, 1 << 30

#: The most entries of a tensor to multiply at a time, so that no copy of a large tensor is made; and the share of all.
_PART, _PART_SHARE = 1 << 19, 1 / 64

#: Rows of a Gram matrix to put in order at a time.
_ROWS = 64

#: From this share of the products to exchange on, all are computed anew: it takes as long and is more exact.
_ANEW = 0.7


def gram(problem: Problem, g: int, cells: Sequence[Unfolding]) -> np.ndarray:
    """For every position of the parents the matrix of <a at i, b at j>: shape (parents, n, n)."""
    group = problem.spec.groups[g]
    if not cells:
        return np.zeros((group.copies, group.size, group.size))
    # In the weights' own precision: the objective itself decides about a step.
    kept, rest = (None, list(cells)) if group.parents else joint_gram(problem, group.leaves, cells)
    total = torch.zeros((), device="cpu") if kept is None else kept[None]
    for u, pair in itertools.chain.from_iterable(in_parts(problem, u, {*group.leaves, *group.parents}) for u in rest):
        for axes in u.occurrences(group.leaves):
            batch = [u.axis_beside(p, axes[0]) for p in group.parents]
            a, b = (t.reshape(group.copies, group.size, -1) for t in arranged(u, pair, batch, axes))
            total = total.to(a.device) + torch.bmm(a, b.conj().transpose(1, 2)).real
    return total.expand(group.copies, group.size, group.size).cpu().numpy()


def arranged(
    unfolding: Unfolding, tensors: Sequence[torch.Tensor], batch: Sequence[int], axes: Sequence[int]
) -> list[torch.Tensor]:
    """Tensors unfolded and permuted to (batch axes flattened, *axes each, the rest flattened)."""
    rest = [k for k in range(len(unfolding.shape)) if k not in (*batch, *axes)]
    sizes = [math.prod(unfolding.shape[k] for k in batch), *(unfolding.shape[k] for k in axes), -1]
    if not rest:
        sizes[-1] = 1
    return [unfolding.of(t).permute(*batch, *axes, *rest).reshape(sizes) for t in tensors]


def in_parts(problem: Problem, u: Unfolding, wanted: Set[int]) -> Iterator[tuple[Unfolding, tuple[torch.Tensor, torch.Tensor]]]:
    """A cell of both models, some positions at a time along a dimension that has none of the wanted leaves.

    So no permuted copy of a large tensor is made, nor one in another order of its axes. Where the dimensions depend on one
    another, or all have wanted leaves, the cell is all there is.
    """
    current, cell = problem.b, u.cells[0]
    taken = {dim for dim, leaf in zip(u.dims, u.leaves, strict=True) if leaf in wanted}
    free = {j: n for j, n in enumerate(u.layout.cell_shape(cell)) if j not in taken}
    size, most = math.prod(u.shape), _most(problem, problem.dtypes[u.name].itemsize)
    now = current.indices(u.name) if isinstance(current, Current) else None
    if size <= most or not free or len(u.cells) > 1 or now is None:
        yield u, (problem.a[u.name], problem.b[u.name])
        return
    dim = max(free, key=free.__getitem__)
    own = tuple(u.layout.pieces[j][piece] for j, piece in enumerate(cell))
    moved = tuple(index[places] for index, places in zip(now, own, strict=True))
    step = max(1, most * free[dim] // size)
    for first in range(0, free[dim], step):
        some = np.arange(first, min(first + step, free[dim]))
        a, b = (_entries(problem, k, u.name, _at(indices, dim, some)) for k, indices in enumerate((own, moved)))
        yield u.cut(dim, len(some)), (a, b)


def joint_gram(
    problem: Problem, leaves: Sequence[int], cells: Sequence[Unfolding]
) -> tuple[torch.Tensor | None, list[Unfolding]]:
    """The Gram matrix of the product of leaves over the cells that have a dimension in which nothing else moves.

    The leaves may depend on nothing but each other.

    Returns:
        The matrix, with as many rows as the product has positions, None where there is no such cell; and the other cells.
    """
    current = problem.b
    if not isinstance(current, Current):
        return None, list(cells)
    sides = {u: _side(problem, u, leaves) for u in cells}
    found = {u: side for u, side in sides.items() if side is not None}
    rest = [u for u in cells if u not in found]
    if not found:
        return None, rest
    total = _brought_up_to_date(problem, current, tuple(leaves), found)
    order = torch.from_numpy(current.order(leaves).copy()).to(total.device)
    kept = tuple(leaves) in problem.kept
    # What is not kept is put in order where it stands.
    moved = zeros(*total.shape, dtype=total.dtype, device=total.device) if kept else total
    for rows in range(0, len(total), _ROWS):
        moved[rows : rows + _ROWS] = total[rows : rows + _ROWS].index_select(1, order)
    return moved, rest


@dataclass(frozen=True)
class _Side:
    """A cell seen from the dimension that has the leaves.

    Attributes:
        dim: which.
        size: how many positions the product of the leaves has.
        places: the cell's positions along the dimension, ``len(places) / size`` for each position of the leaves: beside
            them, the dimension may list others that nothing moves (channels that were flattened with their pixels).
        pieces: the cell's positions along every dimension.
    """

    dim: int
    size: int
    places: np.ndarray
    pieces: tuple[np.ndarray, ...]

    def indices(self, whole: Indices) -> Indices:
        """What is read of model b, the leaves' own dimension in its original order."""
        pairs = enumerate(zip(whole, self.pieces, strict=True))
        return tuple(self.places if j == self.dim else index[piece] for j, (index, piece) in pairs)


@dataclass
class _Kept:
    """A Gram matrix, and for each cell in it what it was computed from."""

    total: torch.Tensor
    seen: dict[Unfolding, Indices] = field(default_factory=dict)


def _side(problem: Problem, u: Unfolding, leaves: Sequence[int]) -> _Side | None:
    """How to see a cell from the dimension that has the leaves; None if others there move, or the leaves are elsewhere too."""
    current = problem.b
    if len(u.cells) > 1 or not isinstance(current, Current) or not current.apart(u.name):
        return None
    dims = u.layout.cells[u.cells[0]]
    where = [j for j, factors in enumerate(dims) if set(leaves) & {f.leaf for f in factors}]
    if len(where) != 1:
        return None
    factors, moving = dims[where[0]], problem.action.group_of
    if [f.leaf for f in factors if f.leaf in leaves or f.leaf in moving] != list(leaves):
        return None
    pieces = tuple(u.layout.pieces[j][p] for j, p in enumerate(u.cells[0]))
    places = pieces[where[0]] if factors.relabel is None else pieces[where[0]][np.argsort(factors.relabel)]
    places = places.reshape([problem.action.leaves[f.leaf].size for f in factors])
    for k, factor in enumerate(factors):
        if factor.back is not None:
            places = places.take(factor.back, axis=k)
    first = [k for k, f in enumerate(factors) if f.leaf in leaves]
    size = math.prod(places.shape[k] for k in first)
    places = places.transpose(*first, *(k for k in range(len(factors)) if k not in first)).reshape(-1)
    return _Side(where[0], size, places, pieces)


def _brought_up_to_date(
    problem: Problem, current: Current, leaves: tuple[int, ...], sides: Mapping[Unfolding, _Side]
) -> torch.Tensor:
    now = {u: side.indices(current.indices(u.name)) for u, side in sides.items()}  # type: ignore[arg-type]
    kept = problem.kept.pop(leaves, None)
    if kept is None or not set(kept.seen) <= set(sides) or _work(kept.seen, now) > _ANEW * _work({}, now):
        kept = _Kept(_zeros(problem, sides))
    alone = [u for u in sides if u not in kept.seen and len(now[u]) == 1]
    if alone:
        columns = [[_entries(problem, k, u.name, (sides[u].places,)).reshape(sides[u].size, -1) for u in alone] for k in (0, 1)]
        _multiply(kept.total, *(torch.cat(of_model, 1) for of_model in columns))
    for u, side in sides.items():
        if u not in alone:
            for exchange in _exchanges(side, kept.seen.get(u), now[u]):
                _add(kept.total, problem, u.name, side, exchange)
        kept.seen[u] = now[u]
    held = sum(_bytes(other.total) for other in problem.kept.values())
    if held + _bytes(kept.total) <= min(KEPT_BYTES, KEPT_SHARE * problem.size):
        problem.kept[leaves] = kept
    return kept.total


def _zeros(problem: Problem, sides: Mapping[Unfolding, _Side]) -> torch.Tensor:
    dtype = functools.reduce(torch.promote_types, (problem.dtypes[u.name] for u in sides))
    u, side = next(iter(sides.items()))
    return zeros(side.size, side.size, dtype=dtype.to_real(), device=problem.given[0][u.name].device)


def _most(problem: Problem, width: int) -> int:
    """The most entries of a tensor to look at at a time."""
    return min(_PART, int(_PART_SHARE * problem.size / width))


def _entries(problem: Problem, k: int, name: str, indices: Indices) -> torch.Tensor:
    """Entries of a tensor of model a (0) or b (1) as it was given."""
    return read(problem.given[k][name], indices).to(problem.dtypes[name])


def _multiply(total: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """Add the inner products of rows, in place."""
    if rows.is_complex() or rows.dtype != total.dtype:
        total += (rows @ columns.conj().T).real
    else:
        total.addmm_(rows, columns.T)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _work(seen: Mapping[Unfolding, Indices], now: Mapping[Unfolding, Indices]) -> float:
    """How many entries of model b have to be multiplied."""
    total = 0.0
    for u, new in now.items():
        old = seen.get(u)
        shares = [1.0] if old is None else [float(np.mean(x != y)) if x is not y else 0.0 for x, y in zip(old, new, strict=True)]
        total += math.prod(len(x) for x in new) * sum(shares)
    return total


@dataclass(frozen=True)
class _Exchange:
    """Products to exchange: what is read of model b at some positions of a dimension, before (None: nothing) and now."""

    old: Indices | None
    new: Indices
    dim: int
    positions: np.ndarray


def _exchanges(side: _Side, old: Indices | None, new: Indices) -> Iterator[_Exchange]:
    """One dimension after the other, the positions along it that are read from elsewhere now."""
    others = [j for j in range(len(new)) if j != side.dim]
    if old is None:
        longest = max(others, key=lambda j: len(new[j]))
        yield _Exchange(None, new, longest, np.arange(len(new[longest])))
        return
    for j in others:
        changed = np.flatnonzero(old[j] != new[j])
        if len(changed):
            step = tuple(new[k] if k == j else index for k, index in enumerate(old))
            yield _Exchange(old, step, j, changed)
            old = step


def _add(total: torch.Tensor, problem: Problem, name: str, side: _Side, exchange: _Exchange) -> None:
    """Add what an exchange changes, in place."""
    dim, positions = exchange.dim, exchange.positions
    own = tuple(side.places if j == side.dim else piece for j, piece in enumerate(side.pieces))
    most = _most(problem, total.element_size())
    step = max(1, most * len(own[dim]) // math.prod(len(x) for x in own))
    for k in range(0, len(positions), step):
        some = positions[k : k + step]
        a = _entries(problem, 0, name, _at(own, dim, some))
        b = _entries(problem, 1, name, _at(exchange.new, dim, some))
        if exchange.old is not None:
            b = b - _entries(problem, 1, name, _at(exchange.old, dim, some))
        _multiply(total, *(t.movedim(side.dim, 0).reshape(len(total), -1) for t in (a, b)))


def _at(indices: Indices, dim: int, positions: np.ndarray) -> Indices:
    return tuple(index[positions] if j == dim else index for j, index in enumerate(indices))
