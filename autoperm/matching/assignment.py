"""Assignments: the permutation p that maximises the sum of gram[i, p[i]], exact to rounding.

scipy's solver for dense matrices takes seconds for a few thousand rows. Large matrices are solved on few of their
entries and then certified on all of them:

1. A few passes of annealed Sinkhorn scaling (Cuturi, NeurIPS 2013; Sharify et al. 2011) give prices of the columns.
2. Of what an entry is worth less its prices, the largest entries are the candidates.
3. The best assignment among the candidates is found by successive shortest paths (Jonker and Volgenant, Computing 1987;
   scipy's ``min_weight_full_bipartite_matching``), and prices that prove it by relaxing edges (Bellman and Ford).
4. Entries of the whole matrix that contradict those prices become candidates too, until there are none. Then the
   assignment is optimal by linear programming duality.

Where a matrix hardly differs from one that was solved before, the first step starts from the prices of that one, cold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from autoperm.errors import AutopermError

#: Up to this many rows the dense solver is the faster one.
DENSE = 450

#: The first and the last temperature of the scaling, as shares of the spread of each row; and the most passes.
_HOT, _COLD, _PASSES = 0.5, 0.03, 12

#: The next temperature is half as high, once columns are wanted once each up to this, on average.
_BALANCED = 0.45

#: Candidates per row to begin with; rounds of new ones, and rounds of relaxation in each, before the dense solver takes
#: over. It does where rows are nearly equal in droves.
_CANDIDATES, _ROUNDS, _RELAXATIONS = 6, 8, 400

#: Candidates per row with which that ends as well.
_MOST = 40

#: Entries to look at at a time: they stay in the cache, and no copy of a large matrix is made.
_CHUNK = 1 << 16


def assign(gram: np.ndarray) -> tuple[np.ndarray, float]:
    """The permutation p that maximises the sum of gram[i, p[i]], and the sum.

    Arguments:
        gram: a square matrix of finite numbers, float32 or float64.

    Example:
        >>> import numpy as np
        >>> best, value = assign(np.array([[1.0, 5.0], [2.0, 3.0]]))
        >>> best.tolist(), value
        ([1, 0], 7.0)
    """
    return assign_again(gram, None)[:2]


def assign_again(gram: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, float, np.ndarray | None]:
    """:func:`assign`, from what the columns of a similar matrix cost; and what they cost in this one, if it is large."""
    if len(gram) > DENSE:
        found, prices = _certified(np.ascontiguousarray(gram), before)
    else:
        found, prices = _dense(gram), None
    return found, float(gram[np.arange(len(gram)), found].sum(dtype=np.float64)), prices


def _dense(gram: np.ndarray) -> np.ndarray:
    try:
        return linear_sum_assignment(gram, maximize=True)[1]
    except ValueError as error:
        raise AutopermError(
            f"products of the weights are not finite in {gram.dtype}: they are too large. Scale both models down, or convert "
            "them to float64"
        ) from error


def _certified(gram: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The best assignment of a large matrix."""
    whole = torch.from_numpy(gram)
    low, high = torch.aminmax(whole)  # no copy is made, as abs would
    largest = max(-float(low), float(high))
    if largest == 0 or not np.isfinite(largest):
        return _dense(gram), None
    spreads = _spreads(whole, largest)
    scaled = None
    if before is not None:  # prices count from any level; far above the entries they would swamp them
        start = torch.from_numpy(before - before.mean()).clamp(-largest, largest).to(whole)
        scaled = _scaled(whole, *spreads, start, _COLD)
    scaled = _scaled(whole, *spreads) if scaled is None else scaled
    best = None if scaled is None else _priced(whole, scaled.double().numpy(), spreads[0], largest)
    return _dense(gram) if best is None else best, None if scaled is None else scaled.numpy()


def _priced(whole: torch.Tensor, prices: np.ndarray, spread: torch.Tensor, largest: float) -> np.ndarray | None:
    """The best assignment, from prices that nearly prove it; None where that takes too long."""
    n, entries = len(whole), _candidates(whole, prices, spread)
    enough = 8 * np.finfo(np.float64).eps * largest
    for count in range(_ROUNDS):
        values = whole.reshape(-1).numpy()[entries].astype(np.float64)
        best = _among(entries, values, prices, largest)
        prices, worth, sure = _potentials(entries, values, best, prices, enough)
        rounding = 4 * torch.finfo(whole.dtype).eps * (largest + float(np.abs(prices).max()))
        new = _contradictions(whole, best, prices, worth, (enough, rounding), 4 << count) if sure else None
        if new is not None and not len(new):
            return best
        if new is None or len(entries) + len(new) > _MOST * n:
            break
        entries = np.union1d(entries, new)
    return None


def _rows(n: int, most: int = _CHUNK) -> Iterator[slice]:
    """The rows of a matrix, some at a time."""
    step = max(1, most // n)
    return (slice(i, min(i + step, n)) for i in range(0, n, step))


def _scaled(
    whole: torch.Tensor,
    row_spread: torch.Tensor,
    column_spread: torch.Tensor,
    prices: torch.Tensor | None = None,
    share: float = _HOT,
) -> torch.Tensor | None:
    """Prices of the columns at which rows choose nearly all different ones; higher where a column is wanted more.

    They are brought up to date from given ones, at a temperature that is a given share of the spread of each row.

    None where that takes too long: where a few rows and columns are much larger than the others, or all alike. There
    the dense solver is quick.
    """
    prices = torch.zeros_like(column_spread) if prices is None else prices
    for _ in range(_PASSES):
        wanted = torch.zeros_like(prices)
        for rows in _rows(len(whole)):
            wishes = torch.sub(whole[rows], prices).mul_(1 / (share * row_spread[rows, None]))
            wishes -= wishes.amax(1, keepdim=True)
            wishes.clamp_(min=-60).exp_()  # numbers too small to be normal are slow
            wanted += wishes.sum(1).reciprocal() @ wishes
        prices = prices + share * column_spread * wanted.log()
        if float((wanted - 1).abs().mean()) <= _BALANCED:
            if share <= _COLD:
                return prices
            share /= 2
    return None


def _spreads(whole: torch.Tensor, largest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The standard deviations of the rows and of the columns, a little at least."""
    n = len(whole)
    sums, squares = whole.new_zeros(2, n), whole.new_zeros(2, n)
    for rows in _rows(n):
        part = whole[rows] / largest
        sums[0, rows] = part.sum(1)
        sums[1] += part.sum(0)
        part *= part
        squares[0, rows] = part.sum(1)
        squares[1] += part.sum(0)
    spread = (squares / n - (sums / n).square()).clamp_min(0).sqrt().clamp_min(1e-9) * largest
    return spread[0], spread[1]


def _candidates(whole: torch.Tensor, prices: np.ndarray, row_spread: torch.Tensor) -> np.ndarray:
    """Sorted flat positions of the entries that are worth most at these prices, and of the diagonal."""
    n, least = len(whole), None
    generator = torch.Generator().manual_seed(n)
    found = [np.arange(0, n * n, n + 1)]
    cost = torch.from_numpy(prices).to(whole.dtype)
    for rows in _rows(n):
        worth = whole[rows] - cost
        top, spread, count = worth.amax(1, keepdim=True), row_spread[rows, None], _CANDIDATES * len(worth)
        if least is None:
            drops = ((worth - top) / spread).reshape(-1).numpy()
            drops.partition(len(drops) - count - 1)  # in place, as torch.kthvalue is not
            least = float(drops[len(drops) - count - 1])
            del drops
        chosen = torch.nonzero((worth > top + least * spread).reshape(-1))[:, 0]
        if not len(worth) <= len(chosen) <= 4 * count:  # ties, or rows unlike the first ones
            # Tied rows choose apart.
            worth += 1e-6 * torch.rand(worth.shape, generator=generator, dtype=worth.dtype, device="cpu")
            chosen = (worth.topk(_CANDIDATES, 1).indices + n * torch.arange(len(worth), device="cpu")[:, None]).reshape(-1)
        found.append(chosen.numpy() + n * rows.start)
    return np.unique(np.concatenate(found))


def _among(entries: np.ndarray, values: np.ndarray, prices: np.ndarray, margin: float) -> np.ndarray:
    """The best assignment among the candidates, by shortest augmenting paths that start from the prices."""
    n = len(prices)
    rows, columns = np.divmod(entries, n)
    starts = np.searchsorted(rows, np.arange(n + 1))
    cost = prices[columns] - values
    # Counted from each row's least cost, all are positive and the prices make most paths short.
    cost += margin - np.repeat(np.minimum.reduceat(cost, starts[:-1]), np.diff(starts))
    # The solver first looks whether there is any assignment, which is quick where each row lists the diagonal first.
    # It has an initial phase for square matrices that can take very long on near ties: a column that none may take
    # makes it skip that.
    order = np.lexsort((columns != rows, rows))
    matrix = csr_array((cost[order], columns[order].astype(np.int32), starts.astype(np.int32)), shape=(n, n + 1))
    return min_weight_full_bipartite_matching(matrix)[1].astype(np.int64)


def _potentials(
    entries: np.ndarray, values: np.ndarray, best: np.ndarray, prices: np.ndarray, enough: float
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Prices at which every row prefers its own column among the candidates, what rows then get, and whether they hold.

    Row i, which has column best[i], may ask for it what another row that lists column best[i] asks for its own, and
    what that one loses by not getting this: the most that holds for all are longest paths.
    """
    n = len(best)
    owner = np.empty_like(best)
    owner[best] = np.arange(n)
    rows, columns = np.divmod(entries, n)
    columns = owner[columns]
    own = np.empty(n)
    own[rows[rows == columns]] = values[rows == columns]
    order = np.argsort(columns, kind="stable")
    rows, gain = rows[order], (values - own[rows])[order]
    starts = np.searchsorted(columns[order], np.arange(n))
    asked, sure = prices[best], False
    for _ in range(_RELAXATIONS):
        higher = np.maximum.reduceat(asked[rows] + gain, starts)
        sure = float((higher - asked).max()) <= enough / 2
        asked = higher
        if sure:
            break
    found = np.empty(n)
    found[best] = asked
    return found, own - asked, sure


def _contradictions(
    whole: torch.Tensor, best: np.ndarray, prices: np.ndarray, worth: np.ndarray, margins: tuple[float, float], most: int
) -> np.ndarray:
    """Flat positions of entries worth more to their row than what it has: the worst of each row and of each column.

    Arguments:
        margins: what counts as more; and how far the matrix's own precision is off, in which rows that nothing comes near
            to are passed over.
    """
    n, (enough, rounding) = len(whole), margins
    cost, has, own = (torch.from_numpy(x) for x in (prices, worth, best))
    rough, least = cost.to(whole.dtype), (has - rounding).to(whole.dtype)
    worst, where = torch.full_like(cost, enough), torch.full((n,), -1, device="cpu")
    found = []
    for rows in _rows(n, _CHUNK // 2):  # in double precision
        others = (whole[rows] - rough).scatter_(1, own[rows, None], -float("inf"))
        near = torch.nonzero(others.amax(1) > least[rows])[:, 0] + rows.start
        del others
        excess = whole[near].to(cost.dtype)
        excess -= cost
        excess -= has[near, None]
        bad = torch.nonzero(excess.amax(1) > enough)[:, 0]
        if len(bad):
            excess, near = excess[bad], near[bad]
            top = excess.topk(min(most, n), 1)
            found.append((near[:, None] * n + top.indices)[top.values > enough])
            down = excess.max(0)
            worse = down.values > worst
            worst[worse], where[worse] = down.values[worse], near[down.indices[worse]]
    columns = torch.nonzero(where >= 0)[:, 0]
    return torch.cat([*found, where[columns] * n + columns]).unique().numpy()
