"""Heads: values move head by head, each with an order of its dims; queries and keys with them unless they are rotated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.zoo.expected.acting import Acting, Axis, Part
from benchmarks.zoo.expected.attention import Attention
from benchmarks.zoo.expected.expectation import Expectation


def expectations(found: Sequence[Attention]) -> Iterator[Expectation]:
    """Two per attention module."""
    for attention in found:
        yield Expectation("values", attention.path, lambda acting, a=attention: _values(acting, a))  # type: ignore[misc]
        yield Expectation("queries", attention.path, lambda acting, a=attention: _queries(acting, a))  # type: ignore[misc]


def _values(acting: Acting, a: Attention) -> str | None:
    """Rows of the values are heads and dims, and so is what the output projection takes."""
    rows = [part for part in acting.parts(a.rows.values) if not a.rows.fused or _taken(acting, a, part)]
    wrong = _headed(acting, a, a.rows.values, rows, a.size)
    if wrong is None and a.out is not None:
        wrong = _headed(acting, a, a.out, acting.parts(a.out), a.size, a.heads // a.kv)
        if wrong is None and set(rows[0].leaves) - set(acting.parts(a.out)[0].leaves):
            wrong = f"{a.rows.values} moves with other leaves than {a.out}"
    if wrong is None and a.table is not None and not a.fixed and a.heads > 1:
        wrong = _with_table(acting, a, rows[0].leaves[0], a.table)
    return wrong


def _taken(acting: Acting, a: Attention, part: Part) -> bool:
    """Whether rows of a fused projection are values: the output projection has their dims."""
    if a.out is None:
        return True
    dims = {leaf for p in acting.parts(a.out) for leaf in p.leaves[-1:]}
    return bool(part.leaves) and part.leaves[-1] in dims


def _headed(acting: Acting, a: Attention, axis: Axis, parts: Sequence[Part], size: int, repeated: int = 1) -> str | None:
    """Whether a dimension is heads x ``repeated`` x dims: heads and repeats exchangeable, dims in an order per head."""
    sizes = [n for n in (a.kv, repeated, size) if n > 1]
    if len(parts) != 1 or [acting.size(leaf) for leaf in parts[0].leaves] != sizes:
        return f"{axis} is {acting.shown(parts)}, not {' x '.join(map(str, sizes))}"
    leaves = parts[0].leaves
    outer = leaves[: len(sizes) - (size > 1)]
    still = [leaf for leaf in leaves if acting.group(leaf) is None]
    if still and not (a.fixed and set(still) <= set(outer)):
        return f"{axis} is {acting.shown(parts)}: {acting.why(axis, still)}"
    if size > 1 and a.kv > 1 and not a.shared and not _depends(acting, leaves[-1], leaves[0]):
        return f"{axis}: all heads have one order of dims"
    return None


def _depends(acting: Acting, leaf: int, on: int) -> bool:
    group = acting.group(leaf)
    return group is not None and (on in group.parents or on in group.leaves)


def _with_table(acting: Acting, a: Attention, head: int, table: Axis) -> str | None:
    columns = acting.parts(table)
    if any(head not in part.leaves for part in columns):
        return f"{table} does not move with the heads but is {acting.shown(columns)}"
    return None


def _queries(acting: Acting, a: Attention) -> str | None:
    """Rows of queries and keys have the heads of the values, and dims that are free unless they are rotated."""
    repeated = a.heads // a.kv
    if a.rows.fused:
        rows = [part for part in acting.parts(a.rows.values) if not _taken(acting, a, part)]
        found = [(a.rows.values, [part], repeated if len(part.positions) > a.kv * a.dims else 1) for part in rows]
    else:
        found = [(a.rows.keys, acting.parts(a.rows.keys), 1), (a.rows.queries, acting.parts(a.rows.queries), repeated)]
    if not found:
        return f"{a.rows.values} has no rows of queries and keys beside the values"
    wrong = (_rotated(acting, a, *of[:2]) if a.rotary else _headed(acting, a, *of[:2], a.dims, of[2]) for of in found)
    return next((w for w in wrong if w is not None), None) or _other_heads(acting, a, [p for _, parts, _ in found for p in parts])


def _rotated(acting: Acting, a: Attention, axis: Axis, parts: Sequence[Part]) -> str | None:
    """Heads are exchangeable; of dims nothing is said."""
    pinned = [leaf for part in parts for leaf in part.leaves[:1] if a.kv > 1 and not a.fixed and acting.group(leaf) is None]
    return f"{axis} is {acting.shown(parts)}: {acting.why(axis, pinned)}" if pinned else None


def _other_heads(acting: Acting, a: Attention, parts: Sequence[Part]) -> str | None:
    head = _head(acting, a) if a.heads > 1 and not a.mixed else None
    if head is not None and any(head not in part.leaves for part in parts if a.kv > 1 or len(part.positions) > a.dims):
        return f"queries or keys of {a.path} are {acting.shown(parts)}, without the heads of the values"
    return None


def _head(acting: Acting, a: Attention) -> int | None:
    """The outermost leaf of what the heads give, or of the values."""
    parts = acting.parts(a.out) if a.out is not None else acting.parts(a.rows.values)
    return parts[0].leaves[0] if parts[0].leaves else None
