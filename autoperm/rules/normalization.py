"""Norms: the reduced axes are free to move, the statistics depend on what is left."""

from __future__ import annotations

from collections.abc import Mapping

from autoperm.inference.views import View
from autoperm.rules.op import Op
from autoperm.rules.registry import rule


def _rest(ndim: int, used: int) -> str:
    return " ".join(f"s{k}" for k in range(ndim - used))


@rule(
    "aten.native_batch_norm", "aten._native_batch_norm_legit_no_training", "aten.batch_norm", "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm", "aten._batch_norm_no_update",
    "aten._native_batch_norm_legit.no_stats", "aten._native_batch_norm_legit_functional",
)  # fmt: skip
def batch_norm(op: Op) -> object:
    x = op.view("input")
    parts = [op.optional(n) for n in ("weight", "bias", "running_mean", "running_var")]
    label = f"b c {_rest(x.ndim, 2)}"
    batch_statistics = bool(op.get("training")) or parts[2] is None
    reduced = "; c" if batch_statistics else ""
    single = not isinstance(op.node.meta["val"], (tuple, list))
    if not single:
        op.only(0)
    found = op.equation(f"{label}, c, c, c, c -> {label} {reduced}", x, *parts, shapes=[op.shape()])
    return found if single else [found] + [None] * (len(op.node.meta["val"]) - 1)


@rule("aten.native_layer_norm", "aten.layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
def layer_norm(op: Op) -> object:
    """Mean and variance over the last dimensions; weights run along those."""
    x = op.view("input")
    weight, bias = op.optional("weight"), op.optional("bias")
    count = len(op["normalized_shape"])
    lead = " ".join(f"b{k}" for k in range(x.ndim - count))
    last = " ".join(f"c{k}" for k in range(count))
    return _normed(op, f"{lead} {last}, {last}, {last}", f"{lead} {last}", f"{lead}{' 1' * count}", x, weight, bias)


def _normed(
    op: Op, operands: str, result: str, statistic: str, *views: View | None, sizes: Mapping[str, int] | None = None
) -> object:
    """What is normed, and its statistics where something reads them: gradients do."""
    single = not isinstance(op.node.meta["val"], (tuple, list))
    read = [] if single else [k for k in range(1, len(op.node.meta["val"])) if op.uses(k)]
    results = ", ".join([result, *[statistic] * len(read)])
    shapes = [op.shape(k) for k in (0, *read)]
    found = op.equation(f"{operands} -> {results}; {statistic}", *views, shapes=shapes, sizes=sizes)
    if single:
        return found
    first, *others = found if read else [found]
    of_result = dict(zip(read, others, strict=True))
    return [first, *(of_result.get(k) for k in range(1, len(op.node.meta["val"])))]


@rule("aten.native_group_norm", "aten.group_norm")
def group_norm(op: Op) -> object:
    """Channels are a product (group, channel in group), and both factors are free."""
    x = op.view("input")
    groups = op["group"] if "group" in op.args else op["num_groups"]
    rest = _rest(x.ndim, 2)
    sizes = {"g": groups, "c": x.shape[1] // groups}
    label, parts = f"b (g c) {rest}", (x, op.optional("weight"), op.optional("bias"))
    return _normed(op, f"{label}, (g c), (g c)", label, "b g", *parts, sizes=sizes)


@rule("aten.instance_norm")
def instance_norm(op: Op) -> View:
    """Every channel of every sample by its own statistics, or by given ones."""
    x = op.view("input")
    parts = [op.optional(n) for n in ("weight", "bias", "running_mean", "running_var")]
    label = f"b c {_rest(x.ndim, 2)}"
    return op.equation(f"{label}, c, c, c, c -> {label}{'; b c' if op['use_input_stats'] else ''}", x, *parts)


@rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(op: Op) -> object:
    """w = g v / |v|, the norm over all dimensions but one."""
    v, g = op.view("v"), op.view("g")
    names = [f"l{k}" for k in range(v.ndim)]
    kept = names[op["dim"]]
    scale = " ".join(kept if n == kept else "1" for n in names)
    several = isinstance(op.node.meta["val"], (tuple, list))
    if several:
        op.only(0)
    label = " ".join(names)
    found = op.equation(f"{label}, {scale} -> {label}; {kept}", v, g, shapes=[op.shape()])
    return [found, None] if several else found


@rule("aten.norm_except_dim")
def norm_except_dim(op: Op) -> View:
    v = op.view("v")
    kept = op["dim"] % v.ndim
    spec = tuple((f"l{k}",) for k in range(v.ndim))
    out = tuple(spec[k] if k == kept else () for k in range(v.ndim))
    return op.state([(v, spec)], [out], [op.shape()])[0]


@rule("aten.renorm")
def renorm(op: Op) -> View:
    x = op.view("self")
    spec = tuple((f"l{k}",) for k in range(x.ndim))
    return op.state([(x, spec)], [spec], [op.shape()], [(spec[op["dim"] % x.ndim],)])[0]
