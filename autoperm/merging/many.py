"""Merging many models: each is aligned to the mean of the others (Ainsworth et al., ICLR 2023, Algorithm 3)."""

from __future__ import annotations

from autoperm.errors import AutopermError
from autoperm.merging.ascent import Ascent
from autoperm.merging.models import Models
from autoperm.merging.registry import Ordered, merger
from autoperm.running import Progress, Run, running


@merger("many")
def merge_many(
    models: Models, *, seed: int = 0, start: str = "identity", max_sweeps: int = 100, progress: Progress = True
) -> Ordered:
    """Align each model to the mean of the others by weight matching, in a random order, until nothing improves.

    The agreement never falls. The history holds it before the start, after the start, and after each sweep.

    Arguments:
        seed: of the order of the models, fresh each sweep, and of weight matching.
        start: ``"identity"`` starts from the models as they are, as the paper does; ``"propagate"`` first aligns each
            model, in a random order, to the mean of those aligned before it.
        max_sweeps: the most sweeps over the models; 0 leaves them as they are.
        progress: False for no bar, or a function that is called after each sweep with its number and the agreement.

    Raises:
        AutopermError: no such start.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> models = [spec.random(seed).apply(mlp) for seed in range(5)]
        >>> autoperm.merge(models, spec, method="many").distances
        (0.0, 0.0, 0.0, 0.0, 0.0)
    """
    if start not in ("identity", "propagate"):
        raise AutopermError(f'start must be "identity" or "propagate", not {start!r}')
    ascent = Ascent(models, models.identity(), seed)
    history = [ascent.agreement]
    with running("merging", progress=progress) as run:
        if start == "propagate" and max_sweeps > 0:
            ascent.propagate(run)
        history.append(ascent.agreement)
        climb(ascent, run, max_sweeps, history)
        return Ordered(ascent.permutations, history, run.stopped or ascent.interrupted)


def climb(ascent: Ascent, run: Run, max_sweeps: int, history: list[float]) -> None:
    """Sweep until nothing moves; the agreement after each sweep is added to the history."""
    sweeps = 0
    while sweeps < max_sweeps and not (run.stopped or ascent.interrupted):
        moved = ascent.sweep(run)
        history.append(ascent.agreement)
        run.advance(ascent.agreement)
        sweeps += 1
        if not moved:
            break
