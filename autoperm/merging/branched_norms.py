"""BatchNorm statistics of a trunk and its heads, computed anew: neither model's fit merged units."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from autoperm.batches import Pick, batches
from autoperm.capture.inputs import flatten_inputs
from autoperm.errors import AutopermError
from autoperm.lockstep import op_name
from autoperm.merging.branched import Branched
from autoperm.merging.placing import arguments
from autoperm.merging.splice import Spliced, Where

#: The weights' place and name.
Key = tuple[Where, str]


@torch.no_grad()
def reset_norms(
    model: Branched, data: Iterable[Any], *, inputs: Pick | None = None, max_batches: int | None = None
) -> Branched:
    """A copy of a trunk with heads whose BatchNorm statistics are the averages over batches (REPAIR, Jordan et al. 2023).

    Every batch is normalised by its own statistics on its way, as in training. Where there is no BatchNorm with running
    statistics, nothing changes.

    Arguments:
        model: the ``model`` of :func:`autoperm.merging.zip.zip_models` with ``until=``; it is not changed.
        data: batches of what the models' forward takes.
        inputs: picks from a batch what the forward takes, such as ``lambda batch: batch[0]`` where it holds labels too.
        max_batches: the most batches to use; None for all.

    Raises:
        AutopermError: no data, or a batch with one value per channel.
        CaptureError: a batch does not fit the model.

    Example:
        >>> import torch, autoperm
        >>> from torch import nn
        >>> from autoperm.merging.zip import zip_models
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval() for _ in "ab")
        >>> x = torch.randn(64, 4)
        >>> found = zip_models([a, b], autoperm.infer(a, x[:1]), data=[x], until=1)
        >>> trunk = reset_norms(found.model, [x]).trunk
        >>> torch.allclose(trunk.get("1.running_mean"), x @ trunk.get("0.weight").T + trunk.get("0.bias"))
        False
        >>> torch.allclose(trunk.get("1.running_mean"), (x @ trunk.get("0.weight").T + trunk.get("0.bias")).mean(0), atol=1e-6)
        True
    """
    new = copy.deepcopy(model)
    totals: dict[Key, Tensor] = {}
    count = 0
    for batch in batches(data, inputs, max_batches):
        spliced = model.spliced(batch)
        run = _Resetting(spliced)
        run.run(*model.values(spliced), *flatten_inputs(batch).tensors)
        for key, found in run.found.items():
            totals[key] = totals.get(key, torch.zeros_like(found)) + found
        count += 1
    for (where, name), total in totals.items():
        new.value(where, name).copy_(total / count)
    return new


class _Resetting(fx.Interpreter):
    """Runs a graph with the statistics of the batch, and keeps them: the mean and the unbiased variance."""

    def __init__(self, spliced: Spliced):
        super().__init__(spliced.module)
        self.found: dict[Key, Tensor] = {}
        self._keys = dict(zip(spliced.module.graph.find_nodes(op="placeholder"), spliced.weights, strict=False))

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function" and n.target is not operator.getitem and "batch_norm" in op_name(n):
            given = arguments(n)
            mean, variance = given.get("running_mean"), given.get("running_var")
            if mean in self._keys and variance in self._keys:
                self._reset(self.env[given["input"]], mean, variance, n)
        return super().run_node(n)

    def _reset(self, value: Tensor, mean: fx.Node, variance: fx.Node, node: fx.Node) -> None:
        rows = value.detach().double().transpose(0, 1).flatten(1)
        if rows.shape[1] < 2:
            raise AutopermError(
                f"BatchNorm's statistics cannot be reset on batches of one value per channel, as at node {node.name}; pass "
                "larger batches"
            )
        for at, found, kept in ((mean, rows.mean(1), rows.mean(1)), (variance, rows.var(1, correction=0), rows.var(1))):
            self.found[self._keys[at]] = kept
            self.env[at] = found.to(self.env[at].dtype)
