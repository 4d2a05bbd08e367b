"""The group of a named model, checked by computation before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence

from autoperm.cli.app import working
from autoperm.errors import AutopermError
from autoperm.infer import infer
from autoperm.modelspec import load_inputs, load_model
from autoperm.spec import PermutationSpec
from autoperm.verify import verify


def verified_group(model: str, inputs: Sequence[str] | None, seed: int) -> PermutationSpec:
    """Infer a model's spec and verify one random element.

    Raises:
        AutopermError: the model or inputs cannot be made, or an element changes the function.
    """
    with working("inferring and verifying the group"):
        network = load_model(model)
        example = load_inputs(inputs or [], model, network)
        spec = infer(network, example)
        checked = verify(network, spec, example, samples=1, seed=seed)
    if not checked.ok:
        raise AutopermError(f"{model}: {checked}. Nothing was done; please report this model")
    return spec
