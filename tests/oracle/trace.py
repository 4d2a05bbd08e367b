"""A stand-in for `autoperm.capture.capture`, so that the oracle can be tested on its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx


def trace(model: nn.Module, *inputs: Any) -> SimpleNamespace:
    """Trace a model in eval mode to a flat graph whose placeholders are its states, then its inputs."""
    model.eval()
    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    persistent = model.state_dict(keep_vars=True)
    for name, tensor in persistent.items():
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor.detach()

    def run(states: list[torch.Tensor], *args: Any) -> Any:
        named = {name: state for group, state in zip(names.values(), states) for name in group}
        return functional_call(model, named, args, tie_weights=False)

    with torch.no_grad():
        module = make_fx(functionalize(run), tracing_mode="real")(list(tensors.values()), *inputs)
    nodes = [n for n in module.graph.nodes if n.op == "placeholder"]
    for node, value in zip(nodes, [*tensors.values(), *inputs]):
        node.meta["val"] = value
    return SimpleNamespace(
        graph_module=module,
        states={n.name: tuple(group) for n, group in zip(nodes, names.values())},
        parameters=frozenset(name for name, _ in model.named_parameters(remove_duplicate=False)),
        inputs={n.name: f"input{i}" for i, n in enumerate(nodes[len(names) :])},
        constants={
            n.name: getattr(module, n.target) for n in module.graph.nodes if n.op == "get_attr"
        },
    )
