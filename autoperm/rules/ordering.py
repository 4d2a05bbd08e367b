"""Sorting, searching and counting."""

from __future__ import annotations

from autoperm.inference.equation import PIN, expand_term
from autoperm.inference.views import View
from autoperm.rules import choices, ties
from autoperm.rules.op import Op, dims_of, letters
from autoperm.rules.pointwise import merge
from autoperm.rules.registry import rule
from autoperm.rules.unordered import in_any_order
from autoperm.rules.written_back import only_written_back


@rule("aten.sort", "aten.topk", "aten.msort")
def sort(op: Op) -> object:
    """The values do not depend on the order of the input; their own order is fixed. Where they came from is a choice."""
    view = op.view("self")
    dims = dims_of(op.get("dim", 0), view.ndim)
    if 0 in op.shape():
        return [op.pinned(op.shape())] * 2
    if not op.get("sorted", True) and not in_any_order(op.labels, op.node, dims[0]):
        op.pin(view, f"the order of what {op.name} gives is not said", dims)
    if not isinstance(op.node.meta["val"], (tuple, list)):
        return _ranked(op, view, dims)[0]
    if not op.uses(1) or not view.ndim:
        return [_ranked(op, view, dims)[0]] * 2
    return list(_chosen(op, view, dims))


@rule("aten.argsort")
def argsort(op: Op) -> View:
    view = op.view("self")
    return _chosen(op, view, dims_of(op["dim"], view.ndim))[1] if view.ndim else view


def _ranked(op: Op, view: View, dims: list[int]) -> list[View]:
    spec = tuple(letters(view.ndim))
    out = tuple(PIN if k in dims else spec[k] for k in range(view.ndim))
    return op.state([(view, spec)], [out], [op.shape()], reason="values in sorted order")


def _chosen(op: Op, view: View, dims: list[int]) -> tuple[View, View]:
    """The values in their order, and which they are: a choice, from what stays in order where scores may be equal."""
    (dim,) = dims
    names = letters(view.ndim)
    unsure = f"{op.name} tells where the values came from, and some may be equal"
    sure = only_written_back(op, dim) or ties.distinct(
        op, op["self"], dim, op.get("k", view.shape[dim]), lambda: op.pin(view, unsure, [dim])
    )
    reason = "values in sorted order" if sure else unsure
    chosen = names[dim] if sure else PIN
    spec, out = ((*names[:dim], name, *names[dim + 1 :]) for name in (chosen, PIN))
    shapes = [op.shape(), (*op.shape(), view.shape[dim])]
    # Each entry of the one-hot form depends on all scores, also where only some of its positions are read.
    rest = tuple(name for k, name in enumerate(spec) if k != dim)
    values, onehot = op.state([(view, spec)], [out, (*out, chosen)], shapes, [rest], reason=reason)
    return values, choices.made(values, onehot)


@rule("aten.searchsorted")
def searchsorted(op: Op) -> View:
    """Boundaries are in order; each value is looked up alone."""
    boundaries, sorter, values = op.view("sorted_sequence"), op.optional("sorter"), op.optional("self")
    if values is None:
        op.pin(boundaries, "boundaries in sorted order")
        return op.pinned(op.shape())
    names = letters(values.ndim)
    lead = () if boundaries.ndim == 1 else tuple(names[:-1])
    terms = [(values, tuple(names)), (boundaries, (*lead, PIN))]
    terms += [] if sorter is None else [(sorter, (*lead, PIN))]
    return op.state(terms, [tuple(names)], [op.shape()], reason="boundaries in sorted order")[0]


@rule("aten.bucketize")
def bucketize(op: Op) -> View:
    op.pin(op.view("boundaries"), "boundaries in sorted order")
    values = op.optional("self")
    return op.pinned(()) if values is None else merge(op, [values], op.shape())


@rule("aten.isin")
def isin(op: Op) -> View:
    """Each element alone, against a set."""
    elements = op.optional("elements") or op.optional("element")
    tested = op.optional("test_elements") or op.optional("test_element")
    terms = [] if elements is None else [(elements, tuple(letters(elements.ndim)))]
    terms += [] if tested is None else [(tested, tuple(letters(tested.ndim, "t")))]
    return op.state(terms, [tuple(letters(len(op.shape())))], [op.shape()])[0]


@rule("aten.histc", "aten.bincount")
def histogram(op: Op) -> View:
    """Counts over all entries, whatever their order; the bins are in order."""
    terms = [(v, expand_term("...", v.ndim)) for v in op.tensors()]
    return op.state(terms, [(PIN,)], [op.shape()], reason="bins in order")[0]


@rule("aten.nonzero", "aten._unique", "aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.masked_select")
def found_by_value(op: Op) -> object:
    """What is found, and in which order, depends on positions."""
    from autoperm.rules.linalg import results

    for view in op.tensors():
        op.pin(view)
    found = [op.pinned(shape) for shape in results(op)]
    return found if isinstance(op.node.meta["val"], (tuple, list)) else found[0]
