"""Heads: values move head by head, each with an order of its dims; queries and keys with them unless they are rotated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.zoo.expected.acting import Acting, Axis, Part
from benchmarks.zoo.expected.attention import Attention
from benchmarks.zoo.expected.expectation import Expectation


def expectations(found: Sequence[Attention]) -> Iterator[Expectation]:
    """Two per attention module; one where queries are added to the results."""
    for attention in found:
        yield Expectation("values", attention.path, lambda acting, a=attention: _values(acting, a))  # type: ignore[misc]
        if not attention.added:
            yield Expectation("queries", attention.path, lambda acting, a=attention: _queries(acting, a))  # type: ignore[misc]


def _values(acting: Acting, a: Attention) -> str | None:
    """Rows of the values are heads and dims, and so is what the output projection takes."""
    rows = [part for part in acting.parts(a.rows.values) if not a.rows.fused or _taken(acting, a, part)]
    found = [_headed(acting, a, a.rows.values, [part], a.size) for part in rows] if a.added else []
    wrong = next((w for w in found if w), None) if found else _headed(acting, a, a.rows.values, rows, a.size)
    if wrong is None and a.out is not None:
        wrong = _given(acting, a, a.out, rows[0])
    if wrong is None and a.table is not None and not a.fixed and a.heads > 1:
        wrong = _with_table(acting, rows[0].leaves[0], a.table)
    return wrong


def _taken(acting: Acting, a: Attention, part: Part) -> bool:
    """Whether rows of a fused projection are values: what the output projection takes has their heads and dims."""
    inner = {leaf for p in acting.parts(a.out) for leaf in p.leaves} if a.out is not None else set(part.leaves)
    return bool(part.leaves) and set(part.leaves) <= inner and len(part.positions) == a.kv * a.size


def _given(acting: Acting, a: Attention, out: Axis, value: Part) -> str | None:
    """Whether the output projection takes the heads and dims of the values; some models have the dims outside."""
    parts, dims = acting.parts(out), value.leaves[-1:] if a.size > 1 else ()
    turned = [Part(p.positions, tuple(x for x in p.leaves if x not in dims) + dims) for p in parts]
    if any(not set(value.leaves) <= set(p.leaves) for p in parts):
        return f"{a.rows.values} moves otherwise than {out}: {acting.shown([value])}, {acting.shown(parts)}"
    return _headed(acting, a, out, turned, a.size, a.heads // a.kv)


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


def _with_table(acting: Acting, head: int, table: Axis) -> str | None:
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
    """The leaf that the values' heads are, or the heads that share them."""
    outer = [leaf for part in acting.parts(a.rows.values) if _taken(acting, a, part) for leaf in part.leaves[:1] if a.kv > 1]
    taken = acting.parts(a.out) if a.out is not None else []
    return next(iter([*outer, *(leaf for part in taken for leaf in part.leaves if acting.size(leaf) == a.heads)]), None)
