"""How lists of sorted rows come about, what is looked up by them, and how they are put back.

See :mod:`autoperm.rules.listing`. Together these are the sparse form of a mixture of experts: tokens are sorted by expert,
multiplied in groups, and summed into the places that they came from.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from autoperm.inference.views import View
from autoperm.rules import choices, picking
from autoperm.rules.choices import Choice, choosing
from autoperm.rules.joining import picked
from autoperm.rules.listing import (
    Back,
    Counts,
    Earlier,
    Ends,
    Listing,
    Places,
    Rows,
    Tracked,
    raw_of,
    rows_of,
    tracking,
)
from autoperm.rules.movement import reshaped
from autoperm.rules.op import Op, letters
from autoperm.rules.registry import NoRule, rule

# -- where lists come from -----------------------------------------------------------------------------------------


@choosing("aten.sort", "aten.argsort")
def sort(op: Op) -> object | None:
    """Rows in the order of the numbers that they chose."""
    choice = choices.of(op, op["self"])
    if choice is None or choice.ndim != 1 or op.get("descending"):
        return None
    listing = Listing(choice)
    order = Places(listing, torch.arange(listing.size, device="cpu"))
    return order if op.name.startswith("aten.argsort") else [Rows(listing, choice, 0), order]


# -- numbers that are known for every row ---------------------------------------------------------------------------


def _computed(op: Op) -> object | None:
    """A pointwise function of known numbers and constants."""
    raws = {node: raw_of(op, node) for node in op.node.all_input_nodes}
    places = [raw for raw in raws.values() if isinstance(raw, Places)]
    constant = [node for node, raw in raws.items() if not isinstance(raw, Places)]
    if len({place.listing for place in places}) != 1 or op.shape() != tuple(places[0].value.shape):
        return None
    if any(op.labels.value(node) is None or node.meta["val"].numel() > 1 for node in constant):
        return None
    args, kwargs = fx.node.map_arg((op.node.args, dict(op.node.kwargs)), lambda node: _number(op, node))
    value = op.node.target(*args, **{k: v for k, v in kwargs.items() if k != "device"})  # type: ignore[operator]
    return Places(places[0].listing, value)


def _number(op: Op, node: fx.Node) -> torch.Tensor | None:
    raw = raw_of(op, node)
    return raw.value if isinstance(raw, Places) else op.labels.value(node)


_NAMES = "view reshape clone detach alias lift_fresh_copy floor_divide div remainder add sub mul"
for _name in _NAMES.split():
    tracking(f"aten.{_name}")(_computed)


@tracking("aten._to_copy")
def cast(op: Op) -> object | None:
    """In another type of integers numbers are what they were, counts and ends too."""
    raw, dtype = raw_of(op, op["self"]), op.node.meta["val"].dtype
    if isinstance(raw, (Counts, Ends)):
        choice = raw.choice if isinstance(raw, Counts) else raw.listing.choice
        return raw if choices.holds(dtype, math.prod(choice.shape)) and not dtype.is_floating_point else None
    return _computed(op)


# -- looked up and put back ---------------------------------------------------------------------------------------------


@tracking("aten.index", "aten._unsafe_index")
def looked_up(op: Op) -> object | None:
    """Rows by place are a list; a list by the inverse order is what it was before; tables by listed numbers are a list."""
    indices = {k: node for k, node in enumerate(op["indices"]) if node is not None}
    raws = [raw_of(op, node) for node in indices.values()]
    source = rows_of(op, op["self"])
    if source is not None:
        back = len(raws) == 1 and isinstance(raws[0], Back) and raws[0].listing is source.listing and source.dim in indices
        return source.label if back else None
    if all(isinstance(raw, Places) for raw in raws):
        return _by_place(op, list(indices), raws)
    if len(raws) == 1 and isinstance(raws[0], Rows) and isinstance(raws[0].label, Choice):
        dim = next(iter(indices))
        return Rows(raws[0].listing, Earlier(op).applied(), dim)  # type: ignore[arg-type]
    return None


def _by_place(op: Op, dims: list[int], places: list[Places]) -> object | None:
    listing, view, first = places[0].listing, op.view("self"), dims[0]
    shape = view.shape
    if any(p.listing is not listing for p in places) or dims != list(range(first, first + len(dims))):
        return None
    index = torch.zeros(listing.size, dtype=torch.long, device="cpu")
    for dim, place in zip(dims, places, strict=True):
        index = index * shape[dim] + place.value % shape[dim]
    known = op.value("self")
    if known is not None and known.ndim == 1:
        return Places(listing, known[index])
    if isinstance(view, Choice):
        return Rows(listing, view, first) if places[0].is_order and len(dims) == 1 and first == 0 else None
    count = math.prod(shape[dim] for dim in dims)
    flat = reshaped(op, view, (*shape[:first], count, *shape[first + len(dims) :]))
    rest = (*shape[:first], listing.size, *shape[first + len(dims) :])
    if torch.equal(index, torch.arange(count, device="cpu")):
        return Rows(listing, flat, first)
    return Rows(listing, picked(op, flat, first, index.numpy(), rest), first)


@tracking("aten.index_add")
def added(op: Op) -> object | None:
    """Rows summed into places: in whatever order they come."""
    places, rows = raw_of(op, op["index"]), rows_of(op, op["source"])
    if not isinstance(places, Places) or rows is None or isinstance(raw_of(op, op["self"]), Tracked):
        return None
    if rows.listing is not places.listing or rows.dim != op["dim"] % len(op.shape()):
        return None
    return Earlier(op).applied()


@tracking("aten.index_put", "aten._unsafe_index_put")
def put(op: Op) -> object | None:
    """``inverse[order] = arange``."""
    (index,) = op["indices"] if len(op["indices"]) == 1 else (None,)
    order, values = raw_of(op, index), op.value("values")
    if not isinstance(order, Places) or not order.is_order or values is None:
        return None
    same = op.shape() == tuple(values.shape) and torch.equal(values, torch.arange(order.listing.size, device="cpu"))
    return Back(order.listing) if same and not op["accumulate"] else None


@tracking("aten.sort", "aten.argsort")
def inverse(op: Op) -> object | None:
    """Sorting an order says where everything is in it."""
    order = raw_of(op, op["self"])
    if not isinstance(order, Places) or not order.is_order or op["descending"]:
        return None
    back = Back(order.listing)
    return back if op.name.startswith("aten.argsort") else [op.pinned(op.shape()), back]


# -- groups of sorted rows -----------------------------------------------------------------------------------------------


@choosing("aten.histc", "aten.bincount")
def counted(op: Op) -> object | None:
    """How often each position was chosen."""
    choice = choices.of(op, op["self"])
    if choice is None or not _one_bin_each(op, choice.onehot.shape[-1]):
        return None
    chosen = letters(choice.ndim)
    (label,) = op.state([(choice.onehot, (*chosen, ("e",)))], [(("e",),)], [op.shape()])
    return Counts(choice, label)


def _one_bin_each(op: Op, count: int) -> bool:
    if op.name.startswith("aten.bincount"):
        return op.get("weights") is None and op.shape() == (count,)
    return (op["bins"], op["min"], op["max"]) == (count, 0, count - 1) and count > 1


@tracking("aten.histc", "aten.bincount")
def counted_in_order(op: Op) -> object | None:
    rows = rows_of(op, op["self"])
    return None if rows is None or not isinstance(rows.label, Choice) else counted(Earlier(op))


@tracking("aten.cumsum")
def ends(op: Op) -> object | None:
    counts = raw_of(op, op["self"])
    return Ends(Listing(counts.choice)) if isinstance(counts, Counts) and counts.choice.ndim == 1 else None


@rule("aten._grouped_mm", "transformers.grouped_mm_fallback")
def grouped_mm(op: Op) -> View:
    """Rows in groups that end at given places, each times its own matrix: with places as numbers, nothing moves along them."""
    rows, weight, ends = _factors(op)
    if rows.ndim != 2 or weight.ndim != 3:
        raise NoRule("groups along other dimensions than rows")
    return op.equation("_ i, _ i m, _ -> _ m", rows, weight, ends, reason="rows are grouped by position")


def _factors(op: Op) -> list[View]:
    return [op.labels.view(node) for node in op.node.all_input_nodes[:3]]


@tracking("aten._grouped_mm", "transformers.grouped_mm_fallback")
def grouped_by_choice(op: Op) -> object | None:
    """Rows sorted by what they chose, each times the matrix that it chose."""
    listed, weight, until = list(op.args.values())[:3]
    rows, ends = rows_of(op, listed), raw_of(op, until)
    if rows is None or not isinstance(ends, Ends) or isinstance(raw_of(op, weight), Tracked) or op.args.get("bias") is not None:
        return None
    choice, matrices = rows.listing.choice, op.labels.view(weight)
    if ends.listing.choice is not choice or rows.dim != 0 or matrices.ndim != 3:
        return None
    earlier = Earlier(op)
    chosen = picking.looked_up(matrices, 0, choice.onehot)
    row, inner, outer = ("r",), ("i",), ("m",)
    terms = [(picking.operand(earlier, listed), (row, inner)), (chosen, (row, inner, outer))]
    found = picking.stated(earlier, terms, (row, outer), op.shape())
    return None if found is None else Rows(rows.listing, found, 0)
