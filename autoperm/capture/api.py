"""Capture a model: the tracers in turn, the clean graph, and errors that say what each attempt answered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoperm.capture import clean
from autoperm.capture.check import HiddenStateError, check_trace
from autoperm.capture.failure import Attempt, cannot_trace, refused
from autoperm.capture.guard import quiet_torch, same_random_state, same_values
from autoperm.capture.lift import identity, other_tensors, sharing, stored_otherwise
from autoperm.capture.program import Program
from autoperm.capture.result import Capture
from autoperm.capture.shell import fresh_tables
from autoperm.capture.tracers import TRACERS, make_constant
from autoperm.errors import CaptureError


def capture(
    model: nn.Module, example_inputs: Any, *, tracers: Sequence[str] = tuple(TRACERS), check: bool = False
) -> Capture:
    """Trace a model to a flat graph of ATen ops, in evaluation mode, and leave it exactly as it was.

    Arguments:
        model: any module; its weights may be on the meta device.
        example_inputs: a tensor, a tuple or list of positional arguments, a dict of keyword arguments, or
            :class:`Inputs`; nested containers are fine. Shapes and everything that is not a tensor become fixed.
        tracers: names in :data:`TRACERS`, tried in this order.
        check: whether to compare with what the model computes on the example inputs, see
            :func:`autoperm.capture.check.check_trace`.

    Returns:
        The capture.

    Raises:
        CaptureError: not a module, lazy weights, a forward that refuses the inputs, or no tracer succeeded.
    """
    start = time.perf_counter()
    inner, prefix = unwrap(model)
    with same_random_state(), same_values(inner), quiet_torch():
        program = Program(inner, example_inputs, prefix)
        program.find_caches()
        tracer, graph_module = _first_success(program, tracers, check)
    return _result(program, graph_module, tracer, start)


def unwrap(model: Any) -> tuple[nn.Module, str]:
    """The module inside parallel and compiled wrappers, and the prefix that they add to state-dict names.

    Raises:
        CaptureError: not a module, or a scripted one.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module; pass the module itself"
        )
    if scripted := [
        path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)
    ]:
        where = f"the submodule {scripted[0]}" if scripted[0] else "the model"
        raise CaptureError(
            f"{where} is a TorchScript module, which cannot be traced; pass the Python module it came from"
        )
    for attribute, kinds in _WRAPPERS.items():
        if type(model).__name__ in kinds and isinstance(getattr(model, attribute, None), nn.Module):
            inner, prefix = unwrap(getattr(model, attribute))
            return inner, f"{attribute}.{prefix}"
    return model, ""


_WRAPPERS = {"module": ("DataParallel", "DistributedDataParallel"), "_orig_mod": ("OptimizedModule",)}


def _first_success(program: Program, tracers: Sequence[str], check: bool) -> tuple[str, fx.GraphModule]:
    attempts: list[Attempt] = []
    for name in tracers:
        if name not in TRACERS:
            raise CaptureError(f"no tracer is called {name!r}; there are {', '.join(TRACERS)}")
        try:
            with fresh_tables(program.model):
                graph_module = _trace(program, name)
            if check:
                check_trace(program, graph_module)
            return name, graph_module
        except HiddenStateError:
            raise
        except Exception as error:
            attempts.append(Attempt(name, error, program.stack.deepest))
        if len(attempts) == 1:  # if the model cannot run at all, no tracer can help
            refused(program, attempts[0])
    raise cannot_trace(program, attempts) from attempts[0].error


def _trace(program: Program, name: str) -> fx.GraphModule:
    """Trace and clean; once more with constants lifted if the model writes to one, which only then is functional."""
    try:
        return _finish(program, TRACERS[name](program))
    except clean.WriteError:
        if program.constants_lifted:
            raise
        program.lift_constants()
        return _finish(program, TRACERS[name](program))


def _finish(program: Program, graph_module: fx.GraphModule) -> fx.GraphModule:
    graph = graph_module.graph
    program.drop_writes(graph)
    clean.check_functional(graph)
    clean.drop_empty_parts(graph)
    clean.drop_dead_code(graph)
    clean.check_sizes(graph)
    clean.check_dtypes(graph)
    clean.flatten_output(graph)
    return graph_module


def _result(program: Program, graph_module: fx.GraphModule, tracer: str, start: float) -> Capture:
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    lifted = program.lifted
    states: dict[str, tuple[str, ...]] = {}
    for entry, node in zip(lifted, placeholders[: len(lifted)], strict=True):
        if entry.names:
            _rename(node, entry.names[0])
            states[node.name] = tuple(entry.names)
        else:
            make_constant(graph_module, node, entry.tensor)._rename(_identifier(entry.path))
    _check_set(program, placeholders)
    inputs = dict(zip(_input_nodes(placeholders[len(lifted) :], program), program.inputs.names, strict=True))
    outside = _name_constants(program, graph_module, placeholders)
    changing, names = _keep_states(program, graph_module, placeholders)
    for node in graph_module.graph.nodes:
        node.meta.setdefault("val", None)
        node.meta.setdefault("module_path", "")
        node.meta.setdefault("source", "")
    fixed = sharing(lifted) | stored_otherwise(program.model, lifted, program.prefix) | outside
    for node in placeholders:
        node.meta["weight"] = node.name in states and states[node.name][0] not in fixed
    graph_module.recompile()
    return Capture(
        graph_module=graph_module,
        states=states,
        parameters=frozenset(name for entry in lifted if entry.is_parameter for name in entry.names),
        inputs=inputs,
        outputs=[*program.outputs, *names],
        constants=clean.constant_values(graph_module),
        tracer=tracer,
        caches=program.caches,
        fixed=fixed,
        changing=frozenset(node.name for node in changing),
        seconds=time.perf_counter() - start,
    )


def _check_set(program: Program, placeholders: Sequence[fx.Node]) -> None:
    """Refuse a model that sets parameters in its forward: which it does not read there, it may read in the next one.

    Raises:
        CaptureError: naming one.
    """
    for entry, node in zip(program.lifted, placeholders, strict=False):
        if entry.names and entry.names[0] in program.written and all(_is_overwritten(node, user) for user in node.users):
            raise CaptureError(
                f"the forward sets the parameter {entry.names[0]}, from data perhaps, as at a first call; run the model once, "
                "model(*inputs), before you capture it"
            )


def _is_overwritten(node: fx.Node, user: fx.Node) -> bool:
    return user.target is torch.ops.aten.copy.default and user.args[0] is node and user.args[1] is not node


def _keep_states(
    program: Program, graph_module: fx.GraphModule, placeholders: Sequence[fx.Node]
) -> tuple[list[fx.Node], list[str]]:
    """Of what the forward changes, keep as outputs what results depend on, by which the next call depends on this one.

    Returns:
        The nodes of what it reads, and names for the new values.
    """
    (output,) = graph_module.graph.find_nodes(op="output")
    results = output.args[0][: len(program.outputs)]
    old = {identity(e.tensor): n for e, n in zip(program.lifted, placeholders, strict=False) if e.names and not e.is_parameter}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        if isinstance(value := getattr(graph_module, node.target, None), Tensor):
            old.setdefault(identity(value), node)
    news = dict(zip(program.changed, output.args[0][len(program.outputs) :], strict=True))
    nodes = {path: old.get(identity(program.before[path])) for path in news if path in program.before}
    read: list[str] = []
    while more := _reached(nodes, [*results, *map(news.get, read)], read):
        read += more
    output.args = ((*results, *(news[path] for path in read)),)
    clean.drop_dead_code(graph_module.graph)
    return [node for path in read if (node := nodes[path]) is not None], [f"the new {path}" for path in read]


def _reached(nodes: Mapping[str, fx.Node | None], results: Sequence[Any], already: Sequence[str]) -> list[str]:
    """The names of further nodes that results depend on."""
    ancestors = clean.ancestors(results) if len(nodes) > len(already) else set()
    return [path for path, node in nodes.items() if path not in already and node in ancestors]


def _input_nodes(nodes: Sequence[fx.Node], program: Program) -> list[str]:
    for node, name in zip(nodes, program.inputs.names, strict=True):
        _rename(node, name)
    return [node.name for node in nodes]


def _rename(node: fx.Node, name: str) -> None:
    """Give a placeholder a readable name, made a valid and unique identifier by fx."""
    node._rename(_identifier(name))
    node.target = node.name


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _name_constants(program: Program, graph_module: fx.GraphModule, placeholders: Sequence[fx.Node]) -> dict[str, str]:
    """Name constants after the attributes that hold them. One of a weight's own memory becomes the weight's placeholder.

    Returns:
        Why weights have to stay that a model reached by a way that its copies do not share.

    Raises:
        CaptureError: it reached a piece of a weight, which would silently be taken for a constant.
    """
    own = {identity(e.tensor): (e, n) for e, n in zip(program.lifted, placeholders, strict=False) if e.names}
    storages = {key[0]: node for key, (_, node) in own.items() if len(key) > 1}
    paths = {identity(tensor): path for path, tensor, _ in other_tensors(program.model)}
    unseen = "it is read by a way that copies of the model do not follow"
    outside = {e.names[0]: unseen for e, _ in own.values() if identity(e.tensor)[0] in program.seen}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value: Any = getattr(graph_module, node.target, None)
        if not isinstance(value, Tensor):
            continue
        key = identity(value)
        if key in own:
            entry, placeholder = own[key]
            if not any(value is held[name] for held, name in entry.slots):
                outside[entry.names[0]] = f"{unseen}, at {_first_use(node)}"
            node.replace_all_uses_with(placeholder)
            graph_module.graph.erase_node(node)
        elif key[0] in storages:
            raise CaptureError(
                f"the model uses a piece of {storages[key[0]].name} that it keeps in a container or attribute of its "
                f"own (first used in {_first_use(node)}); take it from the parameter inside forward instead"
            )
        elif key in paths and not value.is_meta:
            node._rename(_identifier(paths[key]))
    return outside


def _first_use(node: fx.Node) -> str:
    user = next(iter(node.users))
    return user.meta.get("source") or user.meta.get("module_path") or user.name
