"""ZipIt: two models of the same architecture zipped, units of one model with each other too (Stoica et al., ICLR 2024).

Permutations pair every unit of one model with one of the other. Models that learnt different things have no such pairs;
zipping pairs whatever is alike, in one model or across, and it can stop: later layers then stay as they are in both models,
and read the merged units.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoperm.batches import Pick, collected
from autoperm.caches import copied
from autoperm.errors import AutopermError
from autoperm.matching.registry import match
from autoperm.merging.branched import Branched
from autoperm.merging.combine import normalised
from autoperm.merging.mixing import Mixer
from autoperm.merging.models import Model, Models
from autoperm.merging.obstacles import obstacles, until_of
from autoperm.merging.pairing import pair_up
from autoperm.merging.resemblance import resemblances
from autoperm.merging.roles import roles
from autoperm.options import check_number
from autoperm.permutation import Permutation
from autoperm.running import Progress
from autoperm.spec import PermutationSpec
from autoperm.stacks import unstacked
from autoperm.state import like


@dataclass(frozen=True)
class Zip:
    """Two models zipped.

    Attributes:
        model: the merged model. Without ``until=`` a new module or state dict of the first model's kind; with it a
            :class:`autoperm.merging.branched.Branched`, one trunk with both heads.
        labels: for each zipped group, by name, which merged unit every unit is part of; shape (2, n).
        permutation: brings the second model into the first one's order; groups in which units of one model were merged
            stay as they are. With ``within=False`` the model is the mean of the first one and of the second one under it.
        permuted: the groups that are matched by permutation, by name, with the reason.
        groups: the names of the groups that are merged, in the order of the graph.
        interrupted: whether Ctrl-C ended the pass over the data, so that it was zipped on the batches until then.
    """

    model: Any
    labels: Mapping[str, np.ndarray]
    permutation: Permutation
    permuted: Mapping[str, str]
    groups: tuple[str, ...]
    interrupted: bool = False

    @property
    def within(self) -> dict[str, float]:
        """For each zipped group the share of its units that are merged with another one of their own model."""
        found = {}
        for name, labels in self.labels.items():
            counts = [np.bincount(own, minlength=len(own))[own] for own in labels]
            found[name] = float(np.mean([c > 1 for c in counts]))
        return found

    def __repr__(self) -> str:
        kind = "trunk and heads" if isinstance(self.model, Branched) else "one model"
        return f"<Zip: {kind}, {len(self.labels)} groups zipped, {len(self.permuted)} permuted>"


def zip_models(
    models: Sequence[Model],
    spec: PermutationSpec,
    *,
    data: Iterable[Any],
    within: bool = True,
    budget: float = 1.0,
    repeat: float = 0.3,
    until: str | int | None = None,
    weights: Sequence[float] | None = None,
    inputs: Pick | None = None,
    max_batches: int | None = None,
    template: nn.Module | None = None,
    progress: Progress = True,
) -> Zip:
    """Merge two models by zipping the units of every group on data.

    Both models are run once over the data, in eval mode. For every group the correlations of all 2n units of both models
    are accumulated in double precision, and units are merged greedily to n. Weights that make a unit are averaged over the
    units that it was merged from, weights that read it are added up.

    A group is matched by permutation, as by activation matching, where units of one model cannot be merged: heads and what
    depends on them; units of tied weights that are made and read along one dimension; units contracted between two
    activations; and those that no activation shows. :attr:`Zip.permuted` has the reasons.

    Merged units vary less than those they are the mean of. :func:`autoperm.merging.repair` can follow, with the first model and
    ``permutation.apply(second)`` as endpoints: BatchNorm is reset always. Other layers get the endpoints' statistics channel
    by channel, which are those of the merged units with ``within=False`` alone. For a trunk with heads there is
    :func:`autoperm.merging.branched_norms.reset_norms`.

    Arguments:
        models: two modules or state dicts of the spec's architecture; neither is changed.
        spec: from :func:`autoperm.infer`.
        data: batches of what the model's forward takes: a tensor, a tuple of positional arguments, a dict of keyword
            arguments. They are kept in memory.
        within: whether units of one model may be merged with each other. Without, this is activation matching with pairs
            chosen greedily.
        budget: from 0 to 1, the paper's beta: the share of a model's merges that may be within it.
        repeat: from 0 to 1, the paper's alpha: what a merged unit's likeness counts when it is merged again; 0 for pairs.
        until: merge only the groups up to here, in the order of the graph: a group's name, a module's path (up to the last
            group that is made inside), or how many groups. 0 merges nothing, and all of them still leave the output
            layers apart. The result is one trunk with both heads.
        weights: one per model, by default equal and not below zero; they are divided by their sum.
        inputs: picks from a batch what the forward takes, such as ``lambda batch: batch[0]`` where it holds labels too.
        max_batches: the most batches to use; None for all.
        template: a module of the architecture, needed where both models are state dicts.
        progress: False for no bar, or a function that is called after each batch with its number and NaN.

    Raises:
        AutopermError: not two models, no data, fewer than 2 samples, no such group or module (the known groups are listed),
            a budget or a discount out of range, weights that cannot be used, or two state dicts and no template.
        CaptureError: a batch does not fit the model.
        SpecError: on the data's shapes, the model has another spec.
        StateError: models differ in keys, shapes, dtypes or devices, or hold NaN; or an activation is not finite.

    Example:
        >>> import torch, autoperm
        >>> from autoperm.merging.zip import zip_models
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec, x = autoperm.infer(mlp, torch.zeros(1, 4)), torch.randn(64, 4)
        >>> found = zip_models([mlp, spec.random(1).apply(mlp)], spec, data=[x])
        >>> torch.allclose(found.model(x), mlp(x), atol=1e-5)
        True
        >>> a, b = zip_models([mlp, spec.random(1).apply(mlp)], spec, data=[x], until="0").model(x)
        >>> torch.allclose(a, mlp(x), atol=1e-5)
        True
    """
    shares = _check(models, weights, budget, repeat)
    given = Models(models, spec, template=template)
    if given.network is None:
        raise AutopermError("zipping runs the models, but both are state dicts: pass template=, a module of their architecture")
    samples = collected(data, inputs, max_batches)
    network = given.network
    part = roles(network, spec, samples[0])
    chosen = part.order if until is None else until_of(spec, part, until)
    permuted = {g: why for g, why in obstacles(network, spec, part, samples[0]).items() if g in chosen}
    zipped = [g for g in chosen if g not in permuted]
    rest, stopped = _permute_the_rest(given, list(permuted), samples, network)
    states = [given.states[0], rest.reordered(given.states[1])]
    found, interrupted = resemblances(network, spec, states, zipped, samples, progress)
    labels = {g: pair_up(found[g], within=within, budget=budget, repeat=repeat) for g in zipped}
    mixer = Mixer(spec, part, labels, shares)
    model: Any
    if until is None:
        model = _whole(given, models[0], states, mixer)
    else:
        model = Branched(network, spec, part, states, mixer, chosen, labels, shares, samples[0])
    names = [group.name for group in spec.groups]
    return Zip(
        model=model,
        labels={names[g]: labels[g] for g in zipped},
        permutation=_paired(rest, labels),
        permuted={names[g]: why for g, why in permuted.items()},
        groups=tuple(names[g] for g in chosen),
        interrupted=stopped or interrupted,
    )


def _check(models: Sequence[Model], weights: Sequence[float] | None, budget: float, repeat: float) -> list[float]:
    if not isinstance(models, (nn.Module, Mapping)) and len(models) > 2:
        raise AutopermError(
            f"zipping merges 2 models, got {len(models)}; pass two, or merge all in one order with "
            'autoperm.merge(models, spec, method="many")'
        )
    for name, value in (("budget", budget), ("repeat", repeat)):
        check_number(name, value)
        if not 0 <= value <= 1:
            raise AutopermError(f"{name}= must be from 0 to 1, not {value}")
    shares = normalised(weights, 2)
    if min(shares) < 0:
        raise AutopermError(f"weights= must not be below zero for zipping, not {list(weights or ())}")
    return shares


def _permute_the_rest(
    models: Models, groups: Sequence[int], samples: Sequence[Any], network: nn.Module
) -> tuple[Permutation, bool]:
    """What brings the second model's other groups to the first one's, and whether Ctrl-C ended it.

    All groups are matched: where those beside it stood still, a head could not be told by its dimensions.
    """
    spec = models.spec
    if not groups:
        return spec.identity(), False
    a, b = models.given
    found = match(a, b, spec, method="activation", template=network, data=samples, progress=False)
    pairs = enumerate(zip(found.permutation.arrays, spec.identity().arrays, strict=True))
    return Permutation(spec, [array if g in groups else still for g, (array, still) in pairs]), found.interrupted


def _paired(rest: Permutation, labels: Mapping[int, np.ndarray]) -> Permutation:
    """The same element with the groups that were zipped in pairs across the models."""
    arrays = list(rest.arrays)
    for g, (first, second) in labels.items():
        if len(np.unique(second)) == len(second) and np.array_equal(first, np.arange(len(first))):
            arrays[g] = np.argsort(second)
    return Permutation(rest.spec, arrays)


def _whole(models: Models, first: Model, states: Sequence[Mapping[str, Tensor]], mixer: Mixer) -> Any:
    """The merged model, of the first one's kind; tied weights are one tensor."""
    done: dict[str, Any] = {}
    out: dict[str, Any] = {}
    for name, tensor in states[0].items():
        home = models.spec.aliases.get(name, name)
        if home not in done:
            tensors = [state[name] for state in states]
            done[home] = mixer.merged(home, tensors) if isinstance(tensor, Tensor) else copy.deepcopy(tensor)
        out[name] = done[home]
    out = unstacked(models.spec.stacks, out, models.given[0])
    if not isinstance(first, nn.Module):
        return like(first, out)
    new = copied(first, models.spec.caches)
    with torch.no_grad():
        new.load_state_dict(like(first.state_dict(), out))
    return new
