"""From what a tracer returns to the flat, functional graph that a capture promises."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from autoperm.errors import CaptureError


class WriteError(CaptureError):
    """An op that writes to its operand is left in the graph."""


def check_functional(graph: fx.Graph) -> None:
    """Refuse a graph in which an op writes to its operand.

    Raises:
        WriteError: naming the op and the line of the model.
    """
    for node in graph.nodes:
        if _writes(node):
            raise WriteError(
                f"the in-place op {node.target} at {node.meta.get('source', '')} could not be removed"
            )


def has_writes(graph: fx.Graph) -> bool:
    """Whether an op in the graph writes to its operand."""
    return any(_writes(node) for node in graph.nodes)


def check_constants(graph: fx.Graph) -> None:
    """Refuse a graph in which a constant is written to: what is written would be lost.

    Raises:
        WriteError: naming the op and the line of the model.
    """
    for node in graph.nodes:
        if _writes(node) and node.args[0].op == "get_attr":
            raise WriteError(f"the in-place op {node.target} at {node.meta.get('source', '')} writes to a constant")


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def drop_harmless_writes(graph: fx.Graph) -> set[str]:
    """Erase the in-place ops that change no result; the targets of placeholders that were written to."""
    written = _drop_writes_to_arguments(graph)
    _drop_trivial_restriding(graph)
    return written


def _drop_writes_to_arguments(graph: fx.Graph) -> set[str]:
    """Erase the final ``copy_`` back into a placeholder: the new value of an argument is no result of ours."""
    written = set()
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.copy_.default and node.args[0].op == "placeholder":
            written.add(node.args[0].target)
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
    return written


def _drop_trivial_restriding(graph: fx.Graph) -> None:
    """Erase ``as_strided_`` that changes no element's place; average pooling to 1x1 in channels-last makes one."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.as_strided_.default and _same_elements(*node.args):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _same_elements(source: fx.Node, size: list[int], stride: list[int], offset: int | None = None) -> bool:
    before = source.meta.get("val")
    if not isinstance(before, Tensor) or list(before.shape) != list(size) or offset:
        return False
    return all(n <= 1 or a == b for n, a, b in zip(size, before.stride(), stride, strict=True))


def drop_empty_parts(graph: fx.Graph) -> None:
    """Take operands of shape (0,) out of ``cat``, which ignores them; caches start from such a tensor."""
    for node in list(graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default)):
        kept = [part for part in node.args[0] if tuple(part.meta["val"].shape) != (0,)]
        same = all(part.meta["val"].dtype == node.meta["val"].dtype for part in kept)
        if len(kept) == 1 and same:
            node.replace_all_uses_with(kept[0])
        elif kept:
            node.update_arg(0, kept)


_aten = torch.ops.aten

#: Ops that hand values to Python, where the model's control flow looks at them.
_READS = (_aten._local_scalar_dense.default, _aten.equal.default, _aten.is_nonzero.default, _aten.allclose.default)


def drop_dead_code(graph: fx.Graph) -> None:
    """Erase what no result depends on, assertions included; all placeholders stay, and all reads of values.

    The graph is that of the branches that were taken; what they were decided by must stay the same.
    """
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _is_read(node))


def _is_read(node: fx.Node) -> bool:
    """Whether Python sees values: by themselves, or by how large a result is."""
    return node.target in _READS or bool(sized_by(node))


def sized_by(node: fx.Node) -> list[fx.Node]:
    """The operands whose values decide how large a result is: of an index the masks, of which as many are taken as are true."""
    tags = node.target.tags if isinstance(node.target, torch._ops.OpOverload) else ()
    if torch.Tag.dynamic_output_shape not in tags:
        return []
    if node.target is _aten.masked_select.default:
        return [node.args[1]]  # type: ignore[list-item]
    if node.target is not _aten.index.Tensor:
        return node.all_input_nodes
    return [n for n in node.args[1] if isinstance(n, fx.Node) and is_mask(n)]  # type: ignore[union-attr]


def is_mask(index: fx.Node) -> bool:
    """Whether an index marks entries, not where they are."""
    return index.meta["val"].dtype in (torch.bool, torch.uint8)


def flatten_output(graph: fx.Graph) -> None:
    """Make the output node's argument a flat tuple of nodes."""
    (output,) = graph.find_nodes(op="output")
    results = output.args[0]
    output.args = (tuple(results) if isinstance(results, (tuple, list)) else (results,),)


def constant_values(graph_module: fx.GraphModule) -> dict[str, Tensor | None]:
    """The value of each ``get_attr`` node, ``None`` for one on the meta device."""
    values = {}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value = operator.attrgetter(node.target)(graph_module)
        if isinstance(value, Tensor):
            values[node.name] = None if value.is_meta else value.detach()
    return values


def check_sizes(graph: fx.Graph) -> None:
    """Refuse a graph with a size that depends on values.

    Raises:
        CaptureError: naming the op and the line of the model.
    """
    for node in graph.nodes:
        if _has_symbol(node.meta.get("val")):
            raise CaptureError(
                f"the size of the result of {node.target} at {node.meta.get('source', '')} depends on values"
            )


#: Products of matrices, which take operands of one dtype. Fake tensors do not ask.
_PRODUCTS = (_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default)


def check_dtypes(graph: fx.Graph) -> None:
    """Refuse a graph that multiplies matrices of different dtypes: the inputs are not of the weights' dtype.

    Raises:
        CaptureError: naming the op and the line of the model.
    """
    for node in graph.nodes:
        operands = [n.meta.get("val") for n in node.all_input_nodes] if node.target in _PRODUCTS else []
        dtypes = [value.dtype for value in operands if isinstance(value, Tensor)]
        if len(set(dtypes)) > 1:
            raise CaptureError(
                f"{node.target} at {node.meta.get('source') or node.meta.get('module_path', '')} multiplies "
                f"{' and '.join(map(str, dtypes[-2:]))}; bring the inputs to the dtype of the weights"
            )


def _has_symbol(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_symbol(part) for part in value)
    if isinstance(value, Tensor):
        return any(isinstance(size, torch.SymInt) for size in value.shape)
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))


def ancestors(nodes: Sequence[Any]) -> set[fx.Node]:
    """The nodes that some nodes depend on, these included."""
    waiting = [node for node in nodes if isinstance(node, fx.Node)]
    found = set(waiting)
    while waiting:
        fresh = set(waiting.pop().all_input_nodes) - found
        found |= fresh
        waiting += fresh
    return found
