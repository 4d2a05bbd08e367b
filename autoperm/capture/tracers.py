"""The ways to trace a program, in the order in which they are tried."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export.graph_signature import InputKind, OutputKind
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autoperm.capture import clean
from autoperm.capture.gradients import compositions
from autoperm.capture.lift import identity
from autoperm.capture.program import Program
from autoperm.capture.provenance import Replay
from autoperm.capture.reads import Reads
from autoperm.errors import CaptureError

logger = logging.getLogger(__name__)

Tracer = Callable[[Program], fx.GraphModule]
Mode = Literal["fake", "real"]


def trace_fake(program: Program) -> fx.GraphModule:
    """Run on fake tensors: no memory, no arithmetic, works on meta; refuses to look at values."""
    # No shape environment: sizes that depend on values must raise here, not become symbols.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with Reads(program.memories, program.seen):
        return _make_fx(program, program.fake_tensors(mode), "fake")


def trace_export(program: Program) -> fx.GraphModule:
    """``torch.export``, for models that have another code path for it (grouped matrix products, for one)."""
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    tensors = tuple(program.fake_tensors(mode))
    # Without the outer no_grad, the inner one would become a subgraph; the warnings are torch's about torch, and where it
    # fails it prints a graph.
    quiet = contextlib.redirect_stderr(io.StringIO())
    with torch.no_grad(), warnings.catch_warnings(), quiet, Reads(program.memories, program.seen):
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.export.export(_AsModule(program), tensors, strict=False)
        # Values of constants may be in the graph in place of what was read from them.
        program.seen |= program.memories & {identity(t)[0] for t in exported.constants.values() if isinstance(t, Tensor)}
        exported = exported.run_decompositions({})
    graph_module = _plain_graph(exported)
    written = {s.target for s in exported.graph_signature.output_specs if s.kind is OutputKind.USER_INPUT_MUTATION}
    program.note_written([node.target for node in graph_module.graph.find_nodes(op="placeholder")], written)
    return _decomposed(graph_module, program)


def _decomposed(graph_module: fx.GraphModule, program: Program) -> fx.GraphModule:
    """With ops that torch composes of others, which an exported graph keeps, as the other tracers have them.

    Where the graph cannot be run again, since a size in it depends on values, it stays as it is.
    """
    tensors = program.fake_tensors(FakeTensorMode(allow_non_fake_inputs=True))
    found = graph_module
    try:
        for _ in range(2):  # the second time around, ops that were composed of writing ones are functional too
            found = _trace(functionalize(Replay(found), remove="mutations"), tensors, "fake")
            clean.drop_harmless_writes(found.graph)
            if not clean.has_writes(found.graph):
                return found
    except Exception:
        logger.debug("the exported graph stays as it is", exc_info=True)
    return graph_module


def trace_real(program: Program) -> fx.GraphModule:
    """Run on the real weights and inputs: control flow may look at values, and is fixed to what it saw."""
    if program.on_meta:
        raise CaptureError("needs values, but the model or its inputs are on the meta device")
    with Reads(program.memories, program.seen, recorded=True):
        return _make_fx(program, program.real_tensors(), "real")


TRACERS: dict[str, Tracer] = {
    "make_fx-fake": trace_fake,
    "export": trace_export,
    "make_fx-real": trace_real,
}


def _make_fx(program: Program, tensors: list[Tensor], mode: Mode) -> fx.GraphModule:
    """Trace with in-place ops made functional; in a second pass over the graph where the first could not."""
    try:
        graph_module = _trace(functionalize(program, remove="mutations"), tensors, mode)
    except Exception as error:
        try:
            graph_module = _trace(program, tensors, mode)
        except Exception:
            raise error from None
    program.drop_writes(graph_module.graph)
    clean.check_constants(graph_module.graph)
    if clean.has_writes(
        graph_module.graph
    ):  # ops that torch composes of others below functionalization, such as lstm
        found = _trace(functionalize(Replay(graph_module), remove="mutations"), tensors, mode)
        if any(node.meta.get("sized") for node in graph_module.graph.nodes):  # which, is lost
            for node in found.graph.nodes:
                node.meta["sized"] = True
        return found
    return graph_module


def _trace(function: Any, tensors: list[Tensor], mode: Mode) -> fx.GraphModule:
    return make_fx(
        function,
        compositions(),
        tracing_mode=mode,
        _allow_non_fake_inputs=True,
        _error_on_data_dependent_ops=mode == "fake",  # real values may be looked at
        _disable_torch_fn_metadata_mode=True,  # names of torch functions: never read, and they cost time
    )(*tensors)


class _AsModule(nn.Module):
    """A module without weights around a program, which hides the model: all its tensors are arguments."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = [program]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self._program[0](*tensors)


def _plain_graph(exported: torch.export.ExportedProgram) -> fx.GraphModule:
    """The graph of an exported program with constants as ``get_attr`` and only the user's results."""
    graph_module, signature = exported.graph_module, exported.graph_signature
    placeholders = {node.name: node for node in graph_module.graph.nodes if node.op == "placeholder"}
    for spec in signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            value = exported.state_dict.get(spec.target, exported.constants.get(spec.target))
            make_constant(graph_module, placeholders[spec.arg.name], value)
    (output,) = graph_module.graph.find_nodes(op="output")
    kept = [spec.kind is OutputKind.USER_OUTPUT for spec in signature.output_specs]
    output.args = (tuple(node for node, keep in zip(output.args[0], kept, strict=True) if keep),)
    for node in graph_module.graph.nodes:
        stamp = node.meta.get("custom", {}).get("autoperm")
        if stamp:
            node.meta["module_path"], node.meta["source"] = stamp
    return graph_module


def make_constant(graph_module: fx.GraphModule, placeholder: fx.Node, value: Any) -> fx.Node:
    """Turn a placeholder into a ``get_attr`` node that holds ``value``."""
    name = f"_constant_{placeholder.name}"
    graph_module.register_buffer(name, value) if isinstance(value, Tensor) else setattr(
        graph_module, name, value
    )
    with graph_module.graph.inserting_before(placeholder):
        node = graph_module.graph.get_attr(name)
    node.meta = dict(placeholder.meta)
    placeholder.replace_all_uses_with(node)
    graph_module.graph.erase_node(placeholder)
    return node
