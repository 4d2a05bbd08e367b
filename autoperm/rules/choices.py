"""Integer tensors that choose: the indices of ``topk`` or ``argmax``, which say positions of an axis by number.

If that axis is reordered the numbers change, but not what they mean. So such a tensor carries, beside its own label, that
of its one-hot form, which has the chosen axis as one more dimension at the end. Ops that move it about move the one-hot
form along; ops that look something up by it are sums over the chosen axis; and where the numbers themselves are read, the
axis is pinned. Mixtures of experts route like this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from autoperm.inference import views
from autoperm.inference.equation import PIN
from autoperm.inference.operands import pin_view
from autoperm.inference.views import View
from autoperm.rules import picking
from autoperm.rules.joining import picked, side_by_side
from autoperm.rules.movement import narrowed, reordered, reshaped, selected
from autoperm.rules.op import Op, letters
from autoperm.rules.registry import Rule, registering


@dataclass(eq=False)
class Choice(View):
    """The label of a tensor of numbers, with that of its one-hot form: the same dimensions, then the chosen axis."""

    onehot: View = field(kw_only=True)


_RULES: dict[str, Rule] = {}
#: Register what ops make of a choice among their operands, by their names without overload; None where the numbers
#: themselves matter.
choosing = registering(_RULES, "a rule for choices")


def made(view: View, onehot: View) -> Choice:
    return Choice(view.source, view.dims, view.offsets, onehot=onehot)


def of(op: Op, argument: object) -> Choice | None:
    """The choice that an argument is, if it is one."""
    label = op.labels.view(argument) if isinstance(argument, fx.Node) else None
    return label if isinstance(label, Choice) else None


def apply(op: Op) -> object | None:
    """The result where the op knows what to do with choices; otherwise what they choose from is pinned."""
    found = _RULES.get(op.name.rpartition(".")[0])
    result = found(op) if found is not None else None
    if result is None:
        for node in op.node.all_input_nodes:
            pin(op.system, op.labels.view(node), op.node, f"{op.name} reads positions as numbers")
    return result


def pin(system: Any, label: object, node: fx.Node, reason: str) -> None:
    """Pin what a label chooses from, if it is a choice."""
    if isinstance(label, Choice):
        pin_view(system, label.onehot, reason, node, [label.onehot.ndim - 1])


# -- ops that move a choice about ------------------------------------------------------------------------------


@choosing("aten.view", "aten.reshape", "aten._unsafe_view", "aten.squeeze", "aten.unsqueeze", "aten.flatten")
def reshape(op: Op) -> object | None:
    choice = of(op, op["self"])
    if choice is None:
        return None
    shape = op.shape()
    return made(reshaped(op, choice, shape), reshaped(op, choice.onehot, (*shape, choice.onehot.shape[-1])))


@choosing("aten.permute", "aten.transpose", "aten.t")
def permute(op: Op) -> object | None:
    choice = of(op, op["self"])
    if choice is None:
        return None
    order = reordered(op, choice.ndim)
    return made(views.permute(choice, order), views.permute(choice.onehot, [*order, choice.ndim]))


@choosing("aten.expand")
def expand(op: Op) -> object | None:
    choice = of(op, op["self"])
    if choice is None or len(op.shape()) != choice.ndim:
        return None
    return made(views.expand(choice, op.shape()), views.expand(choice.onehot, (*op.shape(), choice.onehot.shape[-1])))


@choosing("aten.select")
def select(op: Op) -> object | None:
    choice = of(op, op["self"])
    if choice is None:
        return None
    dim = op["dim"] % choice.ndim
    at = op["index"] % choice.shape[dim]
    return made(selected(choice, dim, at), selected(choice.onehot, dim, at))


@choosing("aten.slice")
def cut(op: Op) -> object | None:
    choice = of(op, op["self"])
    if choice is None:
        return None
    dim = op["dim"] % choice.ndim
    at = range(choice.shape[dim])[slice(op["start"], op["end"], op["step"])]
    if not len(at):
        return None
    both = [narrowed(op, view, dim, at.start, len(at), at.step) for view in (choice, choice.onehot)]
    return made(*both)


@choosing("aten.cat", "aten.concat", "aten.concatenate")
def joined(op: Op) -> object | None:
    """Indices that were chosen one after the other, side by side."""
    nodes, shape = op["tensors"], op.shape()
    parts = [part for node in nodes if (part := of(op, node)) is not None]
    counts = {part.onehot.shape[-1] for part in parts}
    if len(parts) < len(nodes) or len(counts) > 1:
        return None
    dim = op.get("dim", 0) % len(shape)
    onehots = [part.onehot for part in parts]
    return made(side_by_side(op, nodes, parts, dim, shape), side_by_side(op, nodes, onehots, dim, (*shape, *counts)))


@choosing("aten.clone", "aten.detach", "aten.alias", "aten.contiguous", "aten.lift_fresh_copy")
def same(op: Op) -> object | None:
    return of(op, op["self"])


@choosing("aten._to_copy", "aten.to")
def cast(op: Op) -> object | None:
    """To another type the numbers are the same; but what reads fractions reads numbers, unless it only counts them."""
    choice, dtype = of(op, op["self"]), op.node.meta["val"].dtype
    if choice is None or not holds(dtype, choice.onehot.shape[-1] - 1):
        return None
    counted = all(str(user.target).startswith(("aten.histc", "aten.bincount")) for user in op.node.users)
    return choice if counted or not dtype.is_floating_point else None


def holds(dtype: torch.dtype, largest: int) -> bool:
    """Whether all numbers up to one are different ones in a type."""
    if dtype.is_floating_point:
        return largest <= 1 / torch.finfo(dtype).eps
    return dtype != torch.bool and not dtype.is_complex and largest <= torch.iinfo(dtype).max


@choosing("aten.remainder")
def wrapped(op: Op) -> object | None:
    """Numbers modulo how many there are, by which negative ones would be counted from the end: they stay what they are."""
    choice = of(op, op["self"])
    return choice if choice is not None and op["other"] == choice.onehot.shape[-1] else None


# -- ops that look something up by a choice ----------------------------------------------------------------------


@choosing("aten.eq")
def equals(op: Op) -> object | None:
    """Compared with known numbers, as ``one_hot`` and loops over experts do: positions of the one-hot form."""
    left, right = op.args.get("self"), op.args.get("other")
    choice = of(op, left) or of(op, right)
    other = right if of(op, left) is not None else left
    if choice is None:
        return None
    count = choice.onehot.shape[-1]
    if isinstance(other, (int, float)):
        return selected(choice.onehot, choice.ndim, int(other)) if other in range(count) else None
    if not isinstance(other, fx.Node):
        return None
    value = op.labels.value(other)
    if value is None:
        return None
    if value.numel() == 1:
        number = value.item()
        fits = number in range(count) and value.ndim <= choice.ndim
        return selected(choice.onehot, choice.ndim, int(number)) if fits else None
    return _compared(op, choice, np.asarray(value.cpu()))


def _compared(op: Op, choice: Choice, numbers: np.ndarray) -> object | None:
    """Each index compared with each of some numbers, along a dimension that the indices do not have."""
    along = [k - numbers.ndim for k, n in enumerate(numbers.shape) if n > 1]  # from the right
    if len(along) != 1 or not all(number in range(choice.onehot.shape[-1]) for number in numbers.reshape(-1).tolist()):
        return None
    table, at = choice.onehot, choice.ndim + along[0]
    if at >= 0:
        if choice.shape[at] != 1:
            return None
        table = views.drop(table, at)
    index = numbers.reshape(-1).astype(np.int64)
    found = picked(op, table, table.ndim - 1, index, (*table.shape[:-1], len(index)))
    last, at = found.ndim - 1, max(at, 0)
    found = views.permute(found, [*range(at), last, *range(at, last)])
    while found.ndim < -along[0]:
        found = views.insert(found, 1)
    while found.ndim < len(op.shape()):
        found = views.insert(found, 0)
    return found


@choosing("aten.one_hot")
def one_hot(op: Op) -> object | None:
    choice = of(op, op["self"])
    return choice.onehot if choice is not None and op.shape()[-1] == choice.onehot.shape[-1] else None


@choosing("aten.index_select", "aten.index", "aten._unsafe_index", "aten.embedding")
def looked_up(op: Op) -> object | None:
    """Rows of a table by number."""
    dim, index = _place(op)
    choice = of(op, index)
    table = op.view("weight" if "weight" in op.args else "self")
    if choice is None or isinstance(table, Choice) or choice.onehot.shape[-1] != table.shape[dim]:
        return None
    return picking.looked_up(table, dim, choice.onehot)


def _place(op: Op) -> tuple[int, Any]:
    """The dimension that is indexed, and by what."""
    if op.name.startswith("aten.embedding"):
        return 0, op["indices"]
    if op.name.startswith("aten.index_select"):
        return op["dim"] % max(op.view("self").ndim, 1), op["index"]
    used = [k for k, index in enumerate(op["indices"]) if index is not None]
    return (used[0], op["indices"][used[0]]) if len(used) == 1 else (0, None)


@choosing("aten.gather", "aten.take_along_dim")
def gather(op: Op) -> object | None:
    x, choice = op.view("self"), of(op, op["index" if "index" in op.args else "indices"])
    if choice is None or isinstance(x, Choice):
        return None
    dim = op["dim"] % x.ndim
    if choice.onehot.shape[-1] != x.shape[dim] or _shorter(x, choice, dim):
        return None
    names = letters(x.ndim)
    source = [*names[:dim], ("e",), *names[dim + 1 :]]
    names[dim] = ("k",)
    return op.state([(x, tuple(source)), (choice.onehot, (*names, ("e",)))], [tuple(names)], [op.shape()])[0]


@choosing("aten.scatter", "aten.scatter_add", "aten.scatter_reduce")
def scatter(op: Op) -> object | None:
    """Written to the chosen positions: into each goes what chose it."""
    base, choice = op.view("self"), of(op, op["index"])
    if choice is None or isinstance(base, Choice):
        return None
    dim = op["dim"] % base.ndim
    if choice.onehot.shape[-1] != base.shape[dim] or _shorter(base, choice, dim):
        return None
    source = op.optional("src")
    if isinstance(source, Choice) or (source is not None and source.shape != choice.shape):
        return None
    names = letters(base.ndim)
    written = [*names[:dim], ("e",), *names[dim + 1 :]]
    names[dim] = PIN  # the last one written stays, where two choose the same
    terms = [(base, tuple(written)), (choice.onehot, (*names, ("e",)))]
    if source is not None:
        terms.append((source, tuple(names)))
    return op.state(terms, [tuple(written)], [op.shape()], reason="written one after another")[0]


@choosing("aten.index_add")
def index_add(op: Op) -> object | None:
    base, choice, source = op.view("self"), of(op, op["index"]), op.view("source")
    if choice is None or isinstance(base, Choice) or choice.ndim != 1:
        return None
    dim = op["dim"] % base.ndim
    if choice.onehot.shape[-1] != base.shape[dim]:
        return None
    names = letters(base.ndim)
    written = [*names[:dim], ("e",), *names[dim + 1 :]]
    names[dim] = ("k",)
    terms = [(base, tuple(written)), (source, tuple(names)), (choice.onehot, (("k",), ("e",)))]
    return op.state(terms, [tuple(written)], [op.shape()])[0]


def _shorter(x: View, choice: Choice, dim: int) -> bool:
    return any(a != b for k, (a, b) in enumerate(zip(x.shape, choice.shape, strict=True)) if k != dim)
