"""Averaging: every model is aligned to the first one, or left as it is."""

from __future__ import annotations

import inspect
from typing import Any

from autoperm.errors import AutopermError
from autoperm.matching.registry import match, matchers
from autoperm.merging.models import Models
from autoperm.merging.registry import Ordered, merger
from autoperm.running import Progress, running


@merger("average")
def average(models: Models, *, seed: int = 0, align: str = "weight", progress: Progress = True, **options: Any) -> Ordered:
    """Align every model to the first one, each by itself (Ainsworth et al. 2023, for two models).

    The order of the models after the first one does not matter. Where Ctrl-C ends the search, the models that were not
    looked at yet stay as they are.

    Arguments:
        seed: for the matcher, the same for every model.
        align: the matcher's name, or ``"none"`` to average the models as they are.
        progress: False for no bar, or a function that is called after each model with its number and the match's distance.
        options: passed to the matcher: ``help(autoperm.matching.matchers()[method])`` shows them.

    Raises:
        AutopermError: no such matcher or option; the known ones are listed.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> autoperm.merge([mlp, spec.random(1).apply(mlp)], spec, method="average", align="weight").distances
        (0.0, 0.0)
    """
    permutations = models.identity()
    history, interrupted = [models.agreement(permutations)], False
    if align == "none":
        if options:
            raise AutopermError(f'align="none" takes no options, got {", ".join(options)}')
        return Ordered(permutations, history)
    if align not in matchers():
        raise AutopermError(f'no matcher is called {align!r}; align= is "none" or one of {", ".join(sorted(matchers()))}')
    if "progress" in inspect.signature(matchers()[align]).parameters:
        options["progress"] = False  # there is one bar, that of the models
    with running("alignment", total=len(models) - 1, progress=progress) as run:
        for k in range(1, len(models)):
            found = match(
                models.given[0],
                models.given[k],
                models.spec,
                method=align,
                seed=seed,
                template=models.network,
                groups=models.groups,
                **options,
            )
            permutations[k] = found.permutation
            run.advance(found.distance)
            interrupted = run.stopped or found.interrupted
            if interrupted:
                break
    return Ordered(permutations, [*history, models.agreement(permutations)], interrupted)
