"""What the automorphism oracle's group has beyond the one that was found."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoperm import is_permutation_of
from autoperm.capture import Capture
from autoperm.spec import PermutationSpec
from tests.oracle import generators

#: Generators to look at.
MOST = 40
#: Why there is more on what the oracle can count, where people have looked: models (a pattern), and the explanation.
EXPLAINED: tuple[tuple[str, str], ...] = (
    ("csatv2", "attention over one channel: queries and keys are multiples of the same numbers"),
    ("swinv2_cr.*|SetTransformer.*|levit", "one key for one query (windows of a token, one seed): `q k` is `k q`"),
    ("bit", "images of one pixel at the end: the outer taps of a kernel enter a norm of the weights alone"),
    ("siglip2.*|cosmos3_edge.*|internvl.*|qianfan_ocr.*|pixio|radio", "a table shrunk to a small image: entries count alike"),
    ("sam3_lite_text.*", "a table shrunk to a short text: entries count alike"),
    ("conditional_detr|dab-detr", "images of one pixel: the sines of its row and of its column are the same numbers"),
    ("gemma4_vit.*", "rows of the table of positions that the image has not: one-hot constants multiply them by zero"),
    ("LocalResponseNorm_between", "neighbours on both sides count alike: all channels could be in reverse order"),
)


def explanation(model: str) -> str:
    """What is known of it; empty if nothing."""
    return next((text for models, text in EXPLAINED if re.fullmatch(models, model)), "")


def beyond(model: nn.Module, captured: Capture, spec: PermutationSpec) -> dict[str, str]:
    """Weights that generators of the oracle's group move which are no elements of the one found.

    Returns:
        For the name of each, "positions" if one dimension of it is put in another order as a whole, "entries" if single
        entries trade places. Empty where every generator is an element.
    """
    noise = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(t.shape, generator=noise) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    for first, *others in captured.states.values():  # tied ones are one
        weights |= dict.fromkeys(others, weights[first])
    found: dict[str, str] = {}
    for count, sources in enumerate(_others(captured, spec, weights)):
        for name, source in sources.items():
            if not torch.equal(source.reshape(-1), torch.arange(source.numel())):
                kind = "positions" if _along_a_dimension(source) else "entries"
                found[name] = kind if found.get(name, kind) == kind else "entries"
        if count == MOST:
            break
    return found


def _others(captured: Capture, spec: PermutationSpec, weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Where the entries of each weight come from, for every generator that is no element of the group found."""
    for generator in generators(captured):
        moved, sources = dict(weights), {}
        for placeholder, places in generator.items():
            names = captured.states[placeholder]
            sources[names[0]] = torch.tensor(places).reshape(weights[names[0]].shape)
            moved |= dict.fromkeys(names, weights[names[0]].reshape(-1)[sources[names[0]]])
        if is_permutation_of(moved, weights, spec) is None:
            yield sources


def _along_a_dimension(source: Tensor) -> bool:
    """Whether a tensor is put in another order along one dimension, the same everywhere."""
    still = torch.arange(source.numel()).reshape(source.shape)
    for dim in range(source.ndim):
        # Where the first entries of the slices come from, as positions of the dimension.
        order = source.movedim(dim, 0).reshape(source.shape[dim], -1)[:, 0] // source.stride(dim) % source.shape[dim]
        if torch.equal(still.index_select(dim, order), source):
            return True
    return False
