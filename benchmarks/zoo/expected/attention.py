"""Attention modules, by the names of their projections and the shapes of these."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.zoo.expected.acting import Axis
from benchmarks.zoo.expected.layers import Layer, child, joined, layer_of

QUERY = ("q_proj", "query", "to_q", "q_lin", "query_proj", "wq", "q", "linear_q", "q_linear")
KEY = ("k_proj", "key", "to_k", "k_lin", "key_proj", "wk", "k", "linear_k", "k_linear")
VALUE = ("v_proj", "value", "to_v", "v_lin", "value_proj", "wv", "v", "linear_v", "v_linear")
FUSED = ("qkv", "query_key_value", "Wqkv", "qkv_proj", "c_attn", "to_qkv")
OUT = ("out_proj", "o_proj", "proj", "to_out.0", "out_lin", "dense", "c_proj", "wo", "Wo", "o", "linear_out", "output_proj",
       "out", "merge", "proj.1", "project.0")  # fmt: skip
#: Where BERT and its kin have the output projection: beside the module.
BESIDE = ("output.dense",)
PROJECTIONS = {"in_proj_weight", "in_proj_bias", *QUERY, *KEY, *VALUE, *FUSED, *(name.partition(".")[0] for name in OUT)}
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads")
#: Settings by which queries are added to the results.
ADDS = ("residual_pooling", "residual_pool")
ROTARY = re.compile(r"rotary|rope", re.IGNORECASE)


@dataclass(frozen=True)
class Rows:
    """The rows of the projections, and how many there are; one fused layer is all three."""

    queries: Axis
    keys: Axis
    values: Axis
    queries_width: int
    keys_width: int
    values_width: int
    fused: bool


@dataclass(frozen=True)
class Attention:
    """One module.

    Attributes:
        path: the module's.
        heads, kv, size, dims: query heads, value heads, the size of a value head, and that of a query's and key's.
        rows: of the projections.
        out: what takes the heads' results, None where there is no such layer.
        rotary: queries and keys may be rotated, so that their dims have an order.
        shared: a parameter has one entry per dim for all heads (a norm, a table of distances), so dims move alike in all.
        fixed: heads have constants of their own (slopes of ALiBi), so they stay.
        mixed: a matrix mixes the heads of the scores (talking heads), so that queries and values have heads of their own.
        added: queries are added to the results, so that dims of all three are the same.
        table: the column of a table of biases per head, if it has one.
    """

    path: str
    heads: int
    kv: int
    size: int
    dims: int
    rows: Rows
    out: Axis | None
    rotary: bool
    shared: bool
    fixed: bool
    mixed: bool
    added: bool
    table: Axis | None


def attentions(model: nn.Module) -> Iterator[Attention]:
    """Every attention module whose projections are known by name."""
    modules = dict(model.named_modules())
    rotary = _rotary(modules)
    for path, module in modules.items():
        heads = _number(module, HEADS) or _number(getattr(module, "config", None), HEADS)
        found = _attention(path, module, heads, modules, rotary) if heads else None
        if found is not None:
            yield found


def _attention(path: str, module: nn.Module, heads: int, modules: Mapping[str, nn.Module], rotary: bool) -> Attention | None:
    out, rows = _out(path, module, modules), _rows(path, module)
    if rows is None:
        return None
    if out is not None and out.ins % heads == 0 and rows.fused:
        sizes = _fused(module, heads, out.ins // heads, rows.values_width)
    else:
        sizes = None if rows.fused else _separate(module, heads, rows)
    if sizes is None:
        return None  # which rows are what would be a guess
    kv, size, dims = sizes
    if out is not None and out.ins != heads * size:
        out = None  # it takes more than the heads' results
    shared, mixed, table = _own(path, module, size, dims, heads)
    fixed, added = _fixed(module), any(getattr(module, name, False) for name in ADDS)
    return Attention(path, heads, kv, size, dims, rows, out.inner if out else None, rotary, shared, fixed, mixed, added, table)


def _fused(module: nn.Module, heads: int, size: int, width: int) -> tuple[int, int, int] | None:
    """Value heads, their size, and the size of the others, where one layer makes all; all heads there are share its rows."""
    dims = _number(module, ("key_dim",)) or size
    kv, rest = divmod(width - heads * dims, size + dims)
    shared = _number(module, KV_HEADS) or _number(getattr(module, "config", None), KV_HEADS)
    return (kv, size, dims) if not rest and (kv == heads or (shared and kv > 0 and heads % kv == 0)) else None


def _separate(module: nn.Module, heads: int, rows: Rows) -> tuple[int, int, int] | None:
    config = getattr(module, "config", None)
    kv = _number(module, KV_HEADS) or _number(config, KV_HEADS) or heads
    kv = kv if kv <= heads and heads % kv == 0 and rows.values_width % kv == 0 else heads
    size, rest = divmod(rows.values_width, kv)
    dims, over = divmod(rows.queries_width, heads)
    return (kv, size, dims) if not rest and not over and rows.keys_width in (kv * dims, heads * dims) else None


def _rows(path: str, module: nn.Module) -> Rows | None:
    if module._parameters.get("in_proj_weight") is not None:
        width = module.in_proj_weight.shape[0]  # type: ignore[index, union-attr]
        rows = Axis(joined(path, "in_proj_weight"), 0)
        return Rows(rows, rows, rows, width, width, width, fused=True)
    fused = _first(path, module, FUSED)
    if fused is not None and child(module, "q") is None:
        return Rows(fused.out, fused.out, fused.out, fused.outs, fused.outs, fused.outs, fused=True)
    query, key, value = (_first(path, module, names) for names in (QUERY, KEY, VALUE))
    if query is not None and key is not None and value is not None:
        return Rows(query.out, key.out, value.out, query.outs, key.outs, value.outs, fused=False)
    return None


def _out(path: str, module: nn.Module, modules: Mapping[str, nn.Module]) -> Layer | None:
    parent = path.rpartition(".")[0]
    return _first(path, module, OUT) or (_first(parent, modules[parent], BESIDE) if parent in modules else None)


def _first(path: str, module: nn.Module, names: Sequence[str]) -> Layer | None:
    found = (layer_of(joined(path, name), child(module, name)) for name in names)
    return next((layer for layer in found if layer is not None and layer.groups == 1), None)


def _attribute(of: Any, name: str) -> Any:
    try:
        return getattr(of, name, None)
    except Exception:  # a configuration may refuse to give for all layers what each has for itself
        return None


def _number(of: Any, names: Sequence[str]) -> int:
    values = (_attribute(of, name) for name in names)
    return next((v for v in values if isinstance(v, int) and v > 0), 0)


def _own(path: str, module: nn.Module, size: int, dims: int, heads: int) -> tuple[bool, bool, Axis | None]:
    """Whether a parameter has one entry per dim for all heads, whether one mixes heads, and the table with a column per head."""
    shared, mixed, table = False, False, None
    for name, parameter in module.named_parameters():
        if name.split(".")[0] in PROJECTIONS:
            continue
        last = parameter.shape[-1] if parameter.ndim else 0
        shared |= last in (size, dims)
        mixed |= parameter.ndim >= 2 and parameter.shape[0] == parameter.shape[1] == heads
        if parameter.ndim == 2 and last == heads and re.search(r"bias_table|relative_attention_bias", name):
            table = Axis(joined(path, name), 1)
    return shared, mixed, table


def _rotary(modules: Mapping[str, nn.Module]) -> bool:
    configs = {id(m.config): m.config for m in modules.values() if hasattr(m, "config")}.values()
    named = any(ROTARY.search(path) or ROTARY.search(type(m).__name__) for path, m in modules.items())
    told = (ROTARY.search(key) and value for config in configs for key, value in _settings(config).items())
    return named or any(told) or any(_position(config) == "rotary" for config in configs)


def _settings(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        found = dict(config)
    else:
        found = config.to_dict() if hasattr(config, "to_dict") else dict(getattr(config, "__dict__", {}))
    return {k: v for k, v in found.items() if isinstance(k, str)}


def _position(config: Any) -> str:
    return str(getattr(config, "position_embedding_type", "")) if config is not None else ""


def _fixed(module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    return bool(getattr(config, "alibi", False)) or type(module).__name__.startswith(("Bloom", "Mpt"))
