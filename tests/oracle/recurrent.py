"""LSTM, GRU and plain RNN, unrolled."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from .contract import affine
from .pointwise import combine, elementwise
from .registry import Context, Ids, expands

State = tuple[Ids, ...]
Cell = Callable[[Context, Any, State, list[Any]], State]


def split_weights(weights: list[Any]) -> tuple[Any, Any, Any, Any, Any]:
    """w_ih, w_hh, b_ih, b_hh and the projection, from 2 to 5 tensors."""
    biases = weights[2:4] if len(weights) >= 4 else [None, None]
    return weights[0], weights[1], biases[0], biases[1], weights[-1] if len(weights) in (3, 5) else None


def lstm_cell(ctx: Context, x: Any, state: State, weights: list[Any]) -> State:
    w_ih, w_hh, b_ih, b_hh, projection = split_weights(weights)
    hidden, cell = state
    gates = combine(ctx, "add", affine(ctx, x, w_ih, b_ih), affine(ctx, hidden, w_hh, b_hh))
    i, f, g, o = (Ids(t) for t in gates.ids.chunk(4, -1))
    i, f, o = (elementwise(ctx, "sigmoid", gate) for gate in (i, f, o))
    kept, new = combine(ctx, "mul", f, cell), combine(ctx, "mul", i, elementwise(ctx, "tanh", g))
    cell = combine(ctx, "add", kept, new)
    hidden = combine(ctx, "mul", o, elementwise(ctx, "tanh", cell))
    return hidden if projection is None else affine(ctx, hidden, projection), cell


def gru_cell(ctx: Context, x: Any, state: State, weights: list[Any]) -> State:
    w_ih, w_hh, b_ih, b_hh, _ = split_weights(weights)
    (hidden,) = state
    of_x = [Ids(t) for t in affine(ctx, x, w_ih, b_ih).ids.chunk(3, -1)]
    of_h = [Ids(t) for t in affine(ctx, hidden, w_hh, b_hh).ids.chunk(3, -1)]
    reset, update = (elementwise(ctx, "sigmoid", combine(ctx, "add", of_x[i], of_h[i])) for i in range(2))
    new = elementwise(ctx, "tanh", combine(ctx, "add", of_x[2], combine(ctx, "mul", reset, of_h[2])))
    return (elementwise(ctx, "interpolate", new, hidden, update),)


def rnn_cell(activation: str) -> Cell:
    def cell(ctx: Context, x: Any, state: State, weights: list[Any]) -> State:
        w_ih, w_hh, b_ih, b_hh, _ = split_weights(weights)
        total = combine(ctx, "add", affine(ctx, x, w_ih, b_ih), affine(ctx, state[0], w_hh, b_hh))
        return (elementwise(ctx, activation, total),)

    return cell


CELLS: dict[str, Cell] = {
    "lstm": lstm_cell, "gru": gru_cell, "rnn_tanh": rnn_cell("tanh"), "rnn_relu": rnn_cell("relu"),
}  # fmt: skip


def unroll(ctx: Context, cell: Cell, x: torch.Tensor, state: State, weights: list[Any], reverse: bool) -> Any:
    """One layer in one direction over (time, batch, features): all hidden states, and the last state."""
    steps = list(x.unbind(0))
    out = []
    for step in reversed(steps) if reverse else steps:
        state = cell(ctx, Ids(step), state, weights)
        out.append(state[0].ids)
    return torch.stack(out[::-1] if reverse else out), state


@expands("mkldnn_rnn_layer")
def mkldnn_rnn_layer(ctx: Context, a: SimpleNamespace) -> tuple[Any, ...]:
    """One layer, one direction; the CPU uses it for LSTM only (mode 2). The sequence comes first always."""
    if a.mode != 2 or a.batch_sizes:
        raise NotImplementedError(f"the oracle expands {ctx.op} for LSTM on dense sequences only")
    weights = [a.weight0, a.weight1, a.weight2, a.weight3] if a.has_biases else [a.weight0, a.weight1]
    state = (Ids(ctx.ids(a.hx_)), Ids(ctx.ids(a.cx_)))
    out, (hidden, cell) = unroll(ctx, lstm_cell, ctx.ids(a.input), state, weights, a.reverse)
    return Ids(out), hidden, cell, torch.zeros(0)


@expands("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(ctx: Context, a: SimpleNamespace) -> tuple[Ids, ...]:
    """All layers and directions."""
    if ctx.op._overloadname != "input":
        raise NotImplementedError(f"the oracle does not expand packed sequences: {ctx.op}")
    initial = [ctx.ids(h) for h in (a.hx if isinstance(a.hx, (list, tuple)) else [a.hx])]
    x = ctx.ids(a.input)
    x = x.transpose(0, 1) if a.batch_first else x
    directions = 2 if a.bidirectional else 1
    each = len(a.params) // (a.num_layers * directions)
    finals: list[State] = []
    for layer in range(a.num_layers):
        outs = []
        for direction in range(directions):
            i = layer * directions + direction
            state = tuple(Ids(h[i]) for h in initial)
            weights = list(a.params[i * each : (i + 1) * each])
            out, state = unroll(ctx, CELLS[ctx.name], x, state, weights, bool(direction))
            outs.append(out)
            finals.append(state)
        x = torch.cat(outs, -1)
    last = [Ids(torch.stack([state[k].ids for state in finals])) for k in range(len(initial))]
    return (Ids(x.transpose(0, 1) if a.batch_first else x), *last)


@expands("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def single_cell(ctx: Context, a: SimpleNamespace) -> Any:
    weights = [w for w in (a.w_ih, a.w_hh, a.b_ih, a.b_hh) if w is not None]
    state = tuple(Ids(ctx.ids(h)) for h in (a.hx if isinstance(a.hx, (list, tuple)) else [a.hx]))
    out = CELLS[ctx.name.removesuffix("_cell")](ctx, a.input, state, weights)
    return out if len(out) > 1 else out[0]
