"""Torch-Pruning's groups as permutations: where it would remove channels, they trade places.

A group lists layers, and for each the positions that go when a channel of its root goes. Channels that have as many positions in
every layer are alike to it, so they are exchanged at random. Where its pruner removes channels in all blocks of a group norm, a
grouped convolution or an attention layer at once, they trade places in all blocks at once. The tool's own functions do it: what
they would keep of a weight along a dimension is read in another order.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import import_torchvision

#: The outputs of torchvision's classifiers; users are told to exclude such layers.
CLASSES = 1000


def permuted_groups(model: nn.Module, x: Tensor, seed: int = 0) -> tuple[float, float]:
    """Permute every group at random, in place.

    Returns:
        The share of the parameters' entries that were in a dimension of a group, and in how many ways it can be done (log10).
    """
    generator = torch.Generator().manual_seed(seed)
    pruner = _pruner(model, x)
    moved = {id(p): torch.zeros(p.shape, dtype=torch.bool) for p in model.parameters()}
    order = sum(_permute(group, pruner._get_channel_groups(group), generator, moved) for group in list(_groups(pruner)))
    return sum(int(mask.sum()) for mask in moved.values()) / sum(mask.numel() for mask in moved.values()), order


def log10_factorial(n: int) -> float:
    return math.lgamma(n + 1) / math.log(10)


def _pruner(model: nn.Module, x: Tensor) -> Any:
    """The pruner as its README sets it up: the classifier stays, and attention layers are told with their heads."""
    import torch_pruning as tp

    ignored = [m for m in model.modules() if CLASSES in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    heads = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    swin = import_torchvision().models.swin_transformer.ShiftedWindowAttention
    fused = {m.qkv: m.num_heads for m in model.modules() if isinstance(m, swin)}
    return tp.pruner.BasePruner(
        model, x, importance=tp.importance.RandomImportance(), ignored_layers=ignored, out_channel_groups=heads, num_heads=fused
    )


def _groups(pruner: Any) -> Iterator[Any]:
    """As its pruner goes through them: attention from the layer after it."""
    for group in pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types):
        turned = pruner._downstream_node_as_root_if_attention(group) if pruner._is_atten_group(group)[0] else group
        if turned is not None:
            yield turned


def _permute(group: Any, blocks: int, generator: torch.Generator, moved: dict[int, Tensor]) -> float:
    """Permute one group; the logarithm of how many ways there are."""
    from torch_pruning.pruner.function import BasePruningFunc

    items = [item for item in group.items if isinstance(item.dep.handler.__self__, BasePruningFunc)]
    places = [_places(item) for item in items]
    source, order = _exchanged(sorted(set().union(*places)), places, blocks, generator)
    for item, of in zip(items, places, strict=True):
        reads = {p: q for r, s in source.items() for p, q in zip(of[r], of[s], strict=True)}
        module = item.dep.target.module
        with _reading(reads, moved, 3 * getattr(module, "embed_dim", 0)):
            item.dep([])
        _statistics(module, reads)
    return order


def _places(item: Any) -> dict[int, list[int]]:
    """By channel of the root, the positions that belong to it."""
    found: dict[int, list[int]] = defaultdict(list)
    for position, root in sorted(zip(item.idxs, item.root_idxs, strict=True)):
        found[root].append(position)
    return found


def _exchanged(
    roots: Sequence[int], places: Sequence[dict[int, list[int]]], blocks: int, generator: torch.Generator
) -> tuple[dict[int, int], float]:
    """For each channel that has others like it the one that it is replaced with, at random; and the number of ways (log10)."""
    size = len(roots) // blocks
    columns = [[roots[s + k * size] for k in range(blocks)] for s in range(size)] if blocks * size == len(roots) else []
    alike: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for column in columns:
        alike[tuple(len(of[r]) for of in places for r in column)].append(column)
    source: dict[int, int] = {}
    for same in alike.values():
        for k, j in enumerate(torch.randperm(len(same), generator=generator).tolist() if len(same) > 1 else ()):
            source.update(zip(same[k], same[j], strict=True))
    return source, sum(log10_factorial(len(same)) for same in alike.values())


@contextmanager
def _reading(reads: dict[int, int], moved: dict[int, Tensor], thrice: int) -> Iterator[None]:
    """While it lasts, what the tool would remove positions from is read in another order instead, in place.

    Arguments:
        reads: position -> the one to read.
        moved: by parameter, which entries have been moved.
        thrice: the size of a dimension that has the positions for queries, keys and values; 0 for none.
    """
    from torch_pruning.pruner.function import BasePruningFunc

    def reorder(self: Any, weight: nn.Parameter, keep: Any, dim: int) -> nn.Parameter:
        size = weight.shape[dim]
        copies = 3 if size == thrice else 1
        index = reordering(reads, size, copies)
        weight.data = weight.data.index_select(dim, index)
        if id(weight) in moved:
            free = torch.tensor([p % (size // copies) in reads for p in range(size)])
            moved[id(weight)] |= free.view([-1 if d == dim % weight.ndim else 1 for d in range(weight.ndim)])
        return weight

    before = BasePruningFunc._prune_parameter_and_grad
    BasePruningFunc._prune_parameter_and_grad = reorder
    try:
        yield
    finally:
        BasePruningFunc._prune_parameter_and_grad = before


def reordering(reads: dict[int, int], size: int, copies: int = 1) -> Tensor:
    """The positions to read along a dimension that has all channels ``copies`` times.

    A convolution of several groups has the channels of one only; what does not stay among these stays where it is.
    """
    n = size // copies
    index = [reads.get(p, p) for p in range(n)]
    index = index if sorted(index) == list(range(n)) else list(range(n))
    return torch.tensor([p + k * n for k in range(copies) for p in index])


def _statistics(module: nn.Module, reads: dict[int, int]) -> None:
    """Running statistics of batch norms are not parameters: the tool indexes them itself."""
    for name in ("running_mean", "running_var"):
        value = getattr(module, name, None)
        if isinstance(value, Tensor):
            setattr(module, name, value[reordering(reads, len(value))])
