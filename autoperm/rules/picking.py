"""What is looked up by a choice, before it is looked up: one value for everything that could have been chosen.

The weights of a token's expert are not those of its neighbour's, and each expert's hidden units have an order of their own.
In a tensor that holds the chosen expert's units for every token that order would differ from token to token. So lookups wait:
the label keeps the chosen axis as one more dimension at the end, ops are stated for all that could have been chosen, and only
an op that does something else sees the sum over it of the one-hot form times the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from autoperm.inference import views
from autoperm.inference.equation import Spec, Statement
from autoperm.inference.views import Digit, View
from autoperm.rules.deferred import Deferred
from autoperm.rules.movement import narrowed, reordered, reshaped, selected
from autoperm.rules.op import Op, dims_of, letters
from autoperm.rules.pointwise import pointwise
from autoperm.rules.registry import Rule, find_rule, registering

_E = ("e",)


@dataclass(eq=False)
class Picked(Deferred):
    """A tensor of which every entry was looked up.

    Attributes:
        label: the tensor's dimensions, then the axis that is chosen from.
        onehot: of the same shape: which is chosen where, uniform along all dimensions on which that does not depend.
    """

    label: View
    onehot: View

    @property
    def ndim(self) -> int:
        return self.label.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.label.shape[:-1]

    def settle(self, labels: Any, node: fx.Node) -> View:
        """The sum over the chosen axis."""
        names = letters(self.ndim)
        statement = Statement(labels.system, node, {}, "looked up by a choice")
        statement.operand(self.label, (*names, _E))
        statement.operand(*_compact(self.onehot, names))
        found = statement.result(tuple(names), self.shape)
        statement.close()
        return found


def looked_up(table: View, dim: int, onehot: View) -> Picked:
    """Rows along ``dim`` of a table, by choices: the dimensions of these take the place of ``dim``."""
    inner = onehot.shape[:-1]
    order = [k for k in range(table.ndim) if k != dim] + [dim]
    label, at = views.permute(table, order), dim
    for size in reversed(inner):
        label = views.insert(label, at, size)
    for k, size in enumerate(table.shape):
        if k != dim:
            onehot = views.insert(onehot, k if k < dim else onehot.ndim - 1, size)
    return Picked(label, onehot)


_RULES: dict[str, Rule] = {}
#: Register what ops make of lookups among their operands; None where they have to see what was looked up.
picking = registering(_RULES, "a rule for lookups")


def apply(op: Op) -> object | None:
    """The op for all that could have been chosen, where all lookups among its operands are by the same choice."""
    found = _RULES.get(op.name.rpartition(".")[0])
    if found is None and find_rule(op.node.target) is pointwise:
        found = _pointwise
    return found(op) if found is not None else None


def of(op: Op, argument: object) -> Picked | None:
    raw = op.labels.raw(argument) if isinstance(argument, fx.Node) else None
    return raw if isinstance(raw, Picked) else None


# -- an equation for each ----------------------------------------------------------------------------------------------


def stated(op: Op, terms: Sequence[tuple[Picked | View, Spec]], result: Spec, shape: Sequence[int]) -> Picked | None:
    """An equation over the operands, letter by letter; None where they are not looked up by the same choice.

    A letter that is summed may not be one on which the choice depends.
    """
    picks = [(term, spec) for term, spec in terms if isinstance(term, Picked)]
    if any(not isinstance(term, Picked) and type(term) is not View for term, _ in terms):
        return None  # a number that says which is chosen is not what is looked up by it
    source = picks[0][0].onehot
    where = _places(*picks[0])
    for pick, spec in picks:
        onehot = pick.onehot
        if onehot.source is not source.source or onehot.offsets != source.offsets or onehot.dims[-1] != source.dims[-1]:
            return None
        if _places(pick, spec) != where or not where.keys() <= set(result):
            return None
    sized = [where.get(name) or ((Digit(None, 1, n),) if n > 1 else ()) for name, n in zip(result, shape, strict=True)]
    inputs = [(t.label, (*spec, _E)) if isinstance(t, Picked) else (t, spec) for t, spec in terms]
    count = source.shape[-1]
    (label,) = op.state(inputs, [(*result, _E)], [(*shape, count)])
    return Picked(label, View(source.source, (*sized, source.dims[-1]), source.offsets))


def _places(pick: Picked, spec: Spec) -> dict[tuple[str, ...], tuple[Digit, ...]]:
    """By letter what of the choice runs along it."""
    return {name: digits for name, digits in zip(spec, pick.onehot.dims[:-1], strict=True) if _varies(digits)}


def _varies(digits: Sequence[Digit]) -> bool:
    return any(digit.dim is not None for digit in digits)


def _compact(onehot: View, names: Sequence[tuple[str, ...]]) -> tuple[View, Spec]:
    """The one-hot form without the dimensions on which it does not depend, and the letters of the others."""
    kept = [k for k in range(onehot.ndim - 1) if _varies(onehot.dims[k])]
    dims = (*(onehot.dims[k] for k in kept), onehot.dims[-1])
    return View(onehot.source, dims, onehot.offsets), (*(names[k] for k in kept), _E)


def operand(op: Op, argument: fx.Node) -> Picked | View:
    found = of(op, argument)
    return op.labels.view(argument) if found is None else found


def _pointwise(op: Op) -> object | None:
    shape, several = op.shape(), isinstance(op.node.meta["val"], (tuple, list))
    names = letters(len(shape))
    terms: list[tuple[Picked | View, Spec]] = []
    for node in op.node.all_input_nodes:
        term = operand(op, node)
        own = names[len(names) - term.ndim :]
        terms.append((term, tuple(() if n == 1 and shape[len(names) - term.ndim + k] > 1 else own[k]
                                  for k, n in enumerate(term.shape))))  # fmt: skip
    found = stated(op, terms, tuple(names), shape)
    return [found] * len(op.node.meta["val"]) if several and found is not None else found


def _product(op: Op, left: object, right: object, spec: str) -> Picked | None:
    first, second, result = (tuple((letter,) for letter in part.split()) for part in spec.split(","))
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    return stated(op, [(operand(op, left), first), (operand(op, right), second)], result, op.shape())


@picking("aten.bmm")
def bmm(op: Op) -> object | None:
    left, right = list(op.args.values())[:2]
    return _product(op, left, right, "b n i, b i m, b n m")


@picking("aten.mm")
def mm(op: Op) -> object | None:
    left, right = list(op.args.values())[:2]
    return _product(op, left, right, "n i, i m, n m")


@picking("aten.sum", "aten.mean", "aten.amax", "aten.amin", "aten.prod", "aten.var", "aten.std", "aten.logsumexp")
def reduced(op: Op) -> object | None:
    pick = of(op, op["self"])
    if pick is None:
        return None
    dims, names = dims_of(op.get("dim"), pick.ndim), tuple(letters(pick.ndim))
    keep = len(op.shape()) == pick.ndim
    result = tuple(() if k in dims else name for k, name in enumerate(names) if keep or k not in dims)
    return stated(op, [(pick, names)], result, op.shape())


# -- ops that move entries about: those of the one-hot form go along -----------------------------------------------------


def _both(op: Op, move: Callable[[View], View]) -> Picked | None:
    pick = of(op, op["self"])
    return None if pick is None else Picked(move(pick.label), move(pick.onehot))


@picking("aten.view", "aten.reshape", "aten._unsafe_view", "aten.unsqueeze", "aten.squeeze", "aten.flatten", "aten.unflatten")
def reshape(op: Op) -> object | None:
    shape = op.shape()
    return _both(op, lambda view: reshaped(op, view, (*shape, view.shape[-1])))


@picking("aten.permute", "aten.transpose", "aten.t")
def permute(op: Op) -> object | None:
    n = len(op.shape())
    order = reordered(op, n)
    return _both(op, lambda view: views.permute(view, [*order, n]))


@picking("aten.expand")
def expand(op: Op) -> object | None:
    shape = op.shape()
    return _both(op, lambda view: views.expand(view, (*shape, view.shape[-1]))) if len(shape) == _rank(op) else None


@picking("aten.clone", "aten.detach", "aten.alias", "aten.contiguous", "aten.lift_fresh_copy")
def same(op: Op) -> object | None:
    return of(op, op["self"])


@picking("aten.select")
def select(op: Op) -> object | None:
    dim = op["dim"] % _rank(op)
    return _both(op, lambda view: selected(view, dim, op["index"] % view.shape[dim]))


@picking("aten.slice")
def cut(op: Op) -> object | None:
    dim, length = op["dim"] % _rank(op), op.shape()[op["dim"]]
    start = (op["start"] or 0) % max(op.node.args[0].meta["val"].shape[dim], 1)  # type: ignore[union-attr]
    return _both(op, lambda view: narrowed(op, view, dim, start, length, op["step"])) if length else None


@picking("aten.split", "aten.split_with_sizes", "aten.chunk")
def split(op: Op) -> object | None:
    if of(op, op["self"]) is None:
        return None
    dim, parts, start = (op.get("dim") or 0) % _rank(op), [], 0
    for k in range(len(op.node.meta["val"])):
        length = op.shape(k)[dim]
        parts.append(_both(op, lambda view, at=start, n=length: narrowed(op, view, dim, at, n)))  # type: ignore[misc]
        start += length
    return parts


def _rank(op: Op) -> int:
    return int(op.node.args[0].meta["val"].ndim)  # type: ignore[union-attr]
