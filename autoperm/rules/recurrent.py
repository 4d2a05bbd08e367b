"""Recurrent layers that were kept whole. Others are unrolled by the tracer and need no rule.

The first dimension of both weights holds the gates one after another; every gate's segment is the hidden axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoperm.inference import views
from autoperm.inference.equation import expand_term
from autoperm.inference.views import View
from autoperm.rules.joining import assembled
from autoperm.rules.movement import narrowed, selected
from autoperm.rules.op import Op
from autoperm.rules.registry import NoRule, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def layer(
    op: Op, x: View, weights: Sequence[View], initial: Sequence[View], gates: int, projection: View | None = None
) -> list[View]:
    """One layer in one direction over (time, batch, features): all outputs, then the last states.

    ``x: _ b i; each gate: h i, h p, h, h; states: b p and b h; projection: p h``, where p is h without a projection.
    The recurrent weights are read with the state before, which is the same p under another name: they have two axes.
    """
    hidden = weights[0].shape[0] // gates
    out = "h" if projection is None else "p"

    def each_gate(k: int, spec: str) -> list[tuple[View, str]]:
        return [(narrowed(op, weights[k], 0, g * hidden, hidden), spec) for g in range(gates)]

    before = views.identity(op.system.fresh(tuple(initial[0].shape), op.node))
    recurrent = [(before, "b k"), *each_gate(1, "h k")]
    step = _stated(op, recurrent, ["b h"], [(initial[0].shape[0], hidden)])[0]
    terms = [(x, "_ b i"), *zip(initial, (f"b {out}", "b h"), strict=False), (before, f"b {out}"), (step, "b h")]
    terms += each_gate(0, "h i")
    for k in range(2, len(weights)):
        terms += each_gate(k, "h")
    if projection is not None:
        terms.append((projection, "p h"))
    results = [f"_ b {out}", f"b {out}", "b h"][: 1 + len(initial)]
    time, batch, _ = x.shape
    return _stated(op, terms, results, [(time, batch, initial[0].shape[1])] + [v.shape for v in initial])


def _stated(op: Op, terms: Sequence[tuple[View, str]], results: Sequence[str], shapes: Sequence[Sequence[int]]) -> list[View]:
    inputs = [(v, expand_term(t, v.ndim)) for v, t in terms]
    outputs = [expand_term(t, len(s)) for t, s in zip(results, shapes, strict=True)]
    return op.state(inputs, outputs, shapes, reason="time steps are in order")


@rule("aten.mkldnn_rnn_layer")
def one_layer(op: Op) -> object:
    """What an LSTM in float32 becomes on the CPU; mode 2 is LSTM."""
    if op["mode"] != 2 or op["batch_sizes"]:
        raise NoRule("only LSTM over a dense sequence")
    weights = [op.view(f"weight{k}") for k in range(4 if op["has_biases"] else 2)]
    return [*layer(op, op.view("input"), weights, [op.view("hx_"), op.view("cx_")], 4), None]


@rule("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
def stacked(op: Op) -> object:
    """Layers and directions, one after another; the directions' features are put beside one another."""
    if op["train"] and op["dropout"] and op["num_layers"] > 1:
        raise NoRule("dropout in train mode")
    x = _swapped(op.view("input")) if op["batch_first"] else op.view("input")
    gates, directions = _GATES[op.name.split(".")[1]], 2 if op["bidirectional"] else 1
    given = op["hx"] if isinstance(op["hx"], (list, tuple)) else [op["hx"]]
    params = [op.labels.view(p) for p in op["params"]]
    each = len(params) // (op["num_layers"] * directions)
    projects = each - (4 if op["has_biases"] else 2)
    finals: list[list[View]] = []
    for number in range(op["num_layers"]):
        found = []
        for place in range(number * directions, (number + 1) * directions):
            own = params[place * each : (place + 1) * each]
            initial = [selected(op.labels.view(h), 0, place) for h in given]
            found.append(layer(op, x, own[: each - projects], initial, gates, own[-1] if projects else None))
        finals += [f[1:] for f in found]
        x = found[0][0] if directions == 1 else _beside(op, [f[0] for f in found], 2)
    last = [_stacked(op, [f[k] for f in finals]) for k in range(len(given))]
    return [_swapped(x) if op["batch_first"] else x, *last]


def _swapped(x: View) -> View:
    return views.permute(x, [1, 0, 2])


def _beside(op: Op, parts: Sequence[View], dim: int) -> View:
    width = parts[0].shape[dim]
    shape = (*parts[0].shape[:dim], width * len(parts), *parts[0].shape[dim + 1 :])
    placed = [(part, np.arange(k * width, (k + 1) * width)) for k, part in enumerate(parts)]
    return assembled(op, shape, dim, placed)


def _stacked(op: Op, parts: Sequence[View]) -> View:
    return _beside(op, [views.insert(part, 0) for part in parts], 0)
