"""Decompositions and transforms: nothing moves along what they work on, batch dimensions pass."""

from __future__ import annotations

from autoperm.inference.equation import PIN, expand_term
from autoperm.inference.views import View
from autoperm.rules.op import Op, dims_of, letters
from autoperm.rules.registry import rule


def results(op: Op) -> list[tuple[int, ...]]:
    """The shapes of all results."""
    value = op.node.meta["val"]
    return [tuple(v.shape) for v in value] if isinstance(value, (tuple, list)) else [tuple(value.shape)]


@rule(
    "aten.linalg_inv_ex", "aten.linalg_inv", "aten.inverse", "aten._linalg_det", "aten._linalg_slogdet", "aten.linalg_lu",
    "aten.linalg_lu_factor", "aten.linalg_lu_factor_ex", "aten.linalg_cholesky", "aten.linalg_cholesky_ex", "aten.cholesky",
    "aten.cholesky_inverse", "aten.linalg_qr", "aten.geqrf", "aten._linalg_svd", "aten._linalg_eigh", "aten.linalg_eig",
    "aten.linalg_eigvals", "aten._linalg_eigvals", "aten.linalg_matrix_exp", "aten.linalg_pinv",
    "aten.linalg_householder_product", "aten.orgqr", "aten.linalg_ldl_factor", "aten.linalg_ldl_factor_ex",
    "aten.lu_unpack", "aten.linalg_lstsq", "aten.cholesky_solve", "aten.triangular_solve", "aten.linalg_lu_solve",
)  # fmt: skip
def decomposition(op: Op) -> object:
    """Functions of matrices, of which we know only that they work on each of a batch alone."""
    several = isinstance(op.node.meta["val"], (tuple, list))
    matrices, lead = [], max((v for v in op.tensors()), key=lambda v: v.ndim).shape[:-2]
    for view in op.tensors():
        vectors = view.ndim == len(lead) + 1 and view.shape[:-1] == lead  # one of a batch each: pivots, factors
        if view.ndim < 2 or not (vectors or view.ndim == len(lead) + 2):
            op.pin(view)
        else:
            matrices.append((view, expand_term("... _" if vectors else "... _ _", view.ndim)))
    batch = len(lead)
    names = [(f"~{batch - 1 - k}",) for k in range(batch)]
    shapes = results(op)
    specs = [tuple([*names, *[PIN] * len(shape)][: len(shape)]) for shape in shapes]
    found = op.state(matrices, specs, shapes, reason=f"{op.name} works on whole matrices")
    return found if several else found[0]


@rule("aten._linalg_solve_ex", "aten.linalg_solve_triangular")
def solve(op: Op) -> object:
    """The columns of the right-hand side are solved for one by one."""
    several = isinstance(op.node.meta["val"], (tuple, list))
    a, b = list(op.args)[:2]
    matrix, right = op.view(a), op.view(b)
    if several:
        op.only(0)
    if several and (right.ndim == 1 or matrix.shape[:-1] == right.shape):
        equation = "... _ _, ... _ -> ... _"
    else:
        equation = "... _ _, ... _ k -> ... _ k" if op["left"] else "... _ _, ... k _ -> ... k _"
    found = op.equation(equation, matrix, right, shapes=[op.shape()], reason=f"{op.name} works on whole matrices")
    return [found] + [None] * (len(op.node.meta["val"]) - 1) if several else found


@rule("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c")
def fourier(op: Op) -> View:
    view = op.view("self")
    names = letters(view.ndim)
    for dim in dims_of(op["dim"], view.ndim):
        names[dim] = PIN
    reason = "a Fourier transform depends on the order"
    return op.state([(view, tuple(names))], [tuple(names)], [op.shape()], reason=reason)[0]


@rule("aten.linalg_cross", "aten.cross")
def cross(op: Op) -> View:
    """Three coordinates in order; any other dimension passes."""
    a, b = op.tensors2()
    rank = len(op.shape())
    dim = (op["dim"] if op["dim"] is not None else op.shape().index(3)) % rank
    names = letters(rank)
    names[dim] = PIN
    terms = [(v, tuple(names[rank - v.ndim :])) for v in (a, b)]
    return op.state(terms, [tuple(names)], [op.shape()], reason="three coordinates in order")[0]


@rule("aten._cdist_forward", "aten.cdist", "aten._euclidean_dist")
def cdist(op: Op) -> View:
    return op.equation("... p d, ... r d -> ... p r", *op.tensors2())


@rule("aten._pdist_forward", "aten.pdist")
def pdist(op: Op) -> View:
    return op.equation("_ d -> _; d", op.view("self"), reason="pairs of rows are in order")
