"""One representative of each network: the same, bit for bit, whatever order its units are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec
from autoperm.uses.search import Search
from autoperm.uses.structure import Structure
from autoperm.uses.weights import as_integers, weights

Model = TypeVar("Model", nn.Module, Mapping[str, torch.Tensor])


def canonicalize(model: Model, spec: PermutationSpec) -> tuple[Model, Permutation]:
    """A model's canonical order: equal, bit for bit, for a model and every permutation of it.

    Units are sorted by hashes of what they are connected to, refined until they differ; tied units are settled by
    search (individualisation and refinement: McKay and Piperno, Practical graph isomorphism II, 2014). Trained weights
    take one or two passes over them. Ties that are mere repetition (zero layers, duplicated units, equal heads) cost
    little more; ties with a structure of their own, such as a layer that is the adjacency matrix of a regular graph, may
    take exponentially long.

    Arguments:
        model: a module or a state dict of the spec's architecture; it is not changed.
        spec: from :func:`autoperm.infer`.

    Returns:
        The model in canonical order, of the kind given, and the permutation that was applied. Where units are tied,
        other permutations give the same weights. Tensors on which no output depends stay as they are.

    Raises:
        StateError: names or shapes are not the spec's, or parameters are not finite or on the meta device.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> first, _ = autoperm.canonicalize(mlp, spec)
        >>> second, _ = autoperm.canonicalize(spec.random(1).apply(mlp), spec)
        >>> torch.equal(first[0].weight, second[0].weight)
        True
    """
    labels = {name: as_integers(tensor, signed_zeros=True) for name, tensor in weights(model, spec, "the model").items()}
    found = Permutation(spec, Search(Structure(spec, labels)).canonical().arrays)
    return found.apply(model), found
