"""Running one graph on several state dicts side by side, node by node, as far as some of its nodes.

Side by side, the values of all models at a node are there together and are let go of at once: no more is held than what
the rest of the run still needs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from autoperm.capture import Capture
from autoperm.capture.inputs import flatten_inputs
from autoperm.errors import CaptureError, StateError

#: Called with a node's name and its value for every state dict.
See = Callable[[str, list[Tensor]], None]

#: Ops that only copy what they are given.
_COPIES = {"clone", "_unsafe_view", "_to_copy", "to", "contiguous", "copy", "lift_fresh_copy"}


def run_nodes(
    captured: Capture,
    states: Sequence[Mapping[str, Tensor]],
    batch: Any,
    wanted: Collection[str],
    see: See,
    lent: Mapping[str, Collection[fx.Node]] | None = None,
    known: Sequence[Mapping[fx.Node, Any]] | None = None,
    keep: Collection[fx.Node] = (),
) -> list[dict[fx.Node, Any]]:
    """Run a graph on a batch with several state dicts side by side, as far as the wanted nodes need it.

    Arguments:
        captured: traced on a batch of the same shapes.
        states: of the traced model's architecture; tensors are brought to the trace's dtypes and devices.
        batch: what the model's forward takes.
        wanted: names of nodes.
        see: called with each of them and its values, in the order of computation.
        lent: by a node's name the nodes that it reads with the values of the first state dict, whichever it is run with.
        known: for every state dict the values of nodes that need not be computed, from an earlier run.
        keep: nodes whose values are wanted too.

    Returns:
        for every state dict the values of the nodes to keep.

    Raises:
        StateError: a name is missing from a state dict, or the graph cannot be run on its tensors.
        CaptureError: a constant of the model has no value, because it was traced on the meta device.
    """
    known = known or [{} for _ in states]
    order = _needed(captured, wanted, keep, known[0])
    _check_constants(captured, order)
    last = _last_uses(order, keep)
    runs = [fx.Interpreter(captured.graph_module) for _ in states]
    for run, state, before in zip(runs, states, known, strict=True):
        run.env.update(_arguments(captured, state, batch))
        run.env.update(before)
    with torch.no_grad():
        for node in order:
            borrowed = {used: runs[0].env[used] for used in (lent or {}).get(node.name, ())}
            values = [_value(run, node, borrowed) for run in runs]
            if node.name in wanted:
                see(node.name, values)
            for used in last[node]:
                for run in runs:
                    del run.env[used]
    return [{node: run.env[node] for node in keep} for run in runs]


def _check_constants(captured: Capture, order: Sequence[fx.Node]) -> None:
    if unknown := [n.name for n in order if n.op == "get_attr" and captured.constants.get(n.name, n) is None]:
        raise CaptureError(
            f"the model's constants {', '.join(unknown)} are on the meta device and have no values to run with; pass "
            "template=, a module on a real device"
        )


def _needed(
    captured: Capture, wanted: Collection[str], keep: Collection[fx.Node], known: Collection[fx.Node]
) -> list[fx.Node]:
    """The nodes that those asked for are computed from, and these, in order; from the known ones on."""
    given = set(known)
    nodes = {n for n in captured.graph.nodes if n.name in wanted or n in keep} - given
    waiting = list(nodes)
    while waiting:
        fresh = set(waiting.pop().all_input_nodes) - nodes - given
        nodes |= fresh
        waiting += fresh
    return [n for n in captured.graph.nodes if n in nodes]


def _last_uses(order: Sequence[fx.Node], keep: Collection[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node the values that nothing after it needs, and nobody wants to keep."""
    last = {source: node for node in order for source in [node, *node.all_input_nodes]}
    found: dict[fx.Node, list[fx.Node]] = {node: [] for node in order}
    for source, node in last.items():
        if source not in keep:
            found[node].append(source)
    return found


def _arguments(captured: Capture, state: Mapping[str, Tensor], batch: Any) -> dict[fx.Node, Tensor]:
    """The values of the placeholders: the state's, like those that were traced, and the inputs'."""
    given = dict(zip(captured.inputs, flatten_inputs(batch).tensors, strict=True))
    found = {}
    for node in captured.graph.find_nodes(op="placeholder"):
        if node.name in given:
            found[node] = given[node.name]
        else:
            names = captured.states[node.name]
            present = next((name for name in names if name in state), None)
            if present is None:
                raise StateError(f"the state dict has no entry for {' = '.join(names)}")
            like = node.meta["val"]
            found[node] = state[present].detach().to(like.device, like.dtype)
    return found


def _value(run: fx.Interpreter, node: fx.Node, borrowed: Mapping[fx.Node, Any]) -> Any:
    """The value of one node. What is random has a seed of its own, so that all state dicts see the same noise."""
    if node.op == "placeholder":
        return run.env[node]
    own = {used: run.env[used] for used in borrowed}
    run.env.update(borrowed)
    try:
        if _is_random(node):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                value = run.run_node(node)
        else:
            value = run.run_node(node)
    except (RuntimeError, IndexError, ValueError) as error:
        raise StateError(f"the model cannot be run on the data: at {where(node)}: {error}") from error
    run.env.update(own)
    run.env[node] = value
    return value


def _is_random(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def where(node: fx.Node) -> str:
    """A node's name, op and module, for messages."""
    return f"node {node.name} ({op_name(node)}) in {node.meta.get('module_path') or 'the forward of the model itself'}"


def op_name(node: fx.Node) -> str:
    """The op that computed a node's value, without its namespace and overload; of a result of several, that op's."""
    while node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return str(node.target).split(".")[1] if node.op == "call_function" else node.op


def rearranges(node: fx.Node) -> bool:
    """Whether a node is a view or a copy of its first argument."""
    if node.target is operator.getitem:
        return rearranges(node.args[0])  # type: ignore[arg-type]
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target.is_view or op_name(node) in _COPIES
