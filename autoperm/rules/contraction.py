"""Matrix products: an equation each."""

from __future__ import annotations

import itertools

from autoperm.inference import views
from autoperm.inference.equation import expand_term
from autoperm.inference.views import View
from autoperm.rules.op import Op
from autoperm.rules.registry import rule


@rule("aten.mm", "aten._int_mm")
def mm(op: Op) -> View:
    return op.equation("n i, i m -> n m", *op.tensors2())


@rule("aten.bmm")
def bmm(op: Op) -> View:
    """Over a batch that may be several dimensions flattened, of which each operand may repeat some."""
    a, b = op.tensors2()
    lead = _common_batch(a, b)
    parts = [views.reshape(v, (*lead, *v.shape[1:])) for v in (a, b)]
    if None in parts:
        return op.equation("b n i, b i m -> b n m", a, b)
    shape = (*lead, *op.shape()[1:])
    found = op.equation("... n i, ... i m -> ... n m", *parts, shapes=[shape])
    return views.reshape(found, op.shape()) or found


def _common_batch(a: View, b: View) -> list[int]:
    """The factors of the first dimension that are factors for both operands or for one of them."""
    boundaries = set()
    for view in (a, b):
        total = 1
        for digit in reversed(view.dims[0]):
            boundaries.add(total := total * digit.size)
    ordered = [1, *sorted(boundaries)]
    if any(high % low for low, high in itertools.pairwise(ordered)):
        return [a.shape[0]]
    return [high // low for low, high in itertools.pairwise(ordered)][::-1]


@rule("aten.mv")
def mv(op: Op) -> View:
    return op.equation("n i, i -> n", op.view("self"), op.view("vec"))


@rule("aten.dot", "aten.vdot")
def dot(op: Op) -> View:
    return op.equation("i, i -> ", *op.tensors2())


@rule("aten.outer", "aten.ger")
def outer(op: Op) -> View:
    return op.equation("n, m -> n m", op.view("self"), op.view("vec2"))


@rule("aten.linear")
def linear(op: Op) -> View:
    return op.equation("... i, o i, o -> ... o", op.view("input"), op.view("weight"), op.optional("bias"))


def _added(op: Op, product: str, result: str, *operands: View) -> View:
    """A product plus a summand that broadcasts to the result."""
    added, shape = op.view("self"), op.shape()
    names = tuple((letter,) for letter in result.split())
    terms = [(v, expand_term(t, v.ndim)) for v, t in zip(operands, product.split(","), strict=True)]
    return op.state([*terms, (added, names[len(names) - added.ndim :])], [names], [shape])[0]


@rule("aten.addmm", "aten._addmm_activation")
def addmm(op: Op) -> View:
    return _added(op, "n i, i m", "n m", op.view("mat1"), op.view("mat2"))


@rule("aten.baddbmm")
def baddbmm(op: Op) -> View:
    return _added(op, "b n i, b i m", "b n m", op.view("batch1"), op.view("batch2"))


@rule("aten.addbmm")
def addbmm(op: Op) -> View:
    return _added(op, "b n i, b i m", "n m", op.view("batch1"), op.view("batch2"))


@rule("aten.addmv")
def addmv(op: Op) -> View:
    return _added(op, "n i, i", "n", op.view("mat"), op.view("vec"))


@rule("aten.addr")
def addr(op: Op) -> View:
    return _added(op, "n, m", "n m", op.view("vec1"), op.view("vec2"))


@rule("aten.matmul")
def matmul(op: Op) -> View:
    a, b = op.tensors2()
    left = "i" if a.ndim == 1 else "... n i"
    right = "i" if b.ndim == 1 else "... i m"
    result = " ".join(["..."] * (max(a.ndim, b.ndim) > 2) + ["n"] * (a.ndim > 1) + ["m"] * (b.ndim > 1))
    return op.equation(f"{left}, {right} -> {result}", a, b)


@rule("aten._trilinear")
def trilinear(op: Op) -> View:
    """A sum of products of three tensors, each broadcast along its own new dimensions."""
    terms = []
    for k in (1, 2, 3):
        view, new = op.view(f"i{k}"), op[f"expand{k}"]
        terms.append((view, tuple((f"l{n}",) for n in range(view.ndim + len(new)) if n not in new)))
    rank = max(int(n[0][1:]) for _, s in terms for n in s) + 1
    result = tuple((f"l{n}",) for n in range(rank) if n not in op["sumdim"])
    return op.state(terms, [result], [op.shape()])[0]


@rule("aten.bilinear")
def bilinear(op: Op) -> View:
    operands = [op.view("input1"), op.view("input2"), op.view("weight"), op.optional("bias")]
    return op.equation("... i, ... j, o i j, o -> ... o", *operands)


@rule("aten.einsum")
def einsum(op: Op) -> View:
    """An einsum that was kept whole."""
    left, _, right = op["equation"].replace(" ", "").partition("->")

    def term(text: str) -> str:
        return " ".join("..." if c == "." else c for c in text.replace("...", "."))

    operands = [op.labels.view(node) for node in op["tensors"]]
    return op.equation(", ".join(term(t) for t in left.split(",")) + " -> " + term(right), *operands)
