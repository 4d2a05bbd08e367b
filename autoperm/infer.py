"""Inference, end to end: capture, rules, solution, spec."""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import nn

from autoperm.building import SpecBuilder
from autoperm.capture import Capture, capture
from autoperm.errors import AutopermError, RuleError, UnknownOpError
from autoperm.inference.dependence import Dependence
from autoperm.inference.engine import Engine
from autoperm.inference.rewriting import rewritten
from autoperm.inference.solve import larger, solve
from autoperm.spec import PermutationSpec

logger = logging.getLogger(__name__)


class UnsupportedOpWarning(UserWarning):
    """Some ops have no rule; everything they touch is pinned, so the group found may be too small."""


class ValueDependentWarning(UserWarning):
    """The model was traced on real values, so that the group found holds for the branches that those values took."""


def infer(
    model: nn.Module, example_inputs: Any, *, on_unknown: Literal["pin", "error"] = "pin", check: bool = True
) -> PermutationSpec:
    """Find every permutation of a model's weights that leaves its function unchanged.

    The model is traced once, in eval mode, and is left exactly as it was. The result holds for inputs of the example's
    shapes.

    Arguments:
        model: any module whose forward runs on the example inputs; on the meta device too.
        example_inputs: a tensor, a tuple or list of positional arguments, a dict of keyword arguments, or
            ``autoperm.Inputs(*args, **kwargs)`` for both.
        on_unknown: what to do about an op without a rule: ``"pin"`` all it touches and warn, or raise an ``"error"``.
        check: whether to run the model twice on the example inputs and compare: its trace computes the same, and the second
            call what the first does. Nothing runs on the meta device.

    Returns:
        The spec: groups, order, what is pinned and why.

    Raises:
        CaptureError: the model cannot be traced on the example inputs, or the trace is not what it computes.
        UnknownOpError: an op has no rule and ``on_unknown`` is ``"error"``.
        RuleError: the rule of an op fails, which is a bug; the message says where.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> spec.order == 40320
        True
    """
    if on_unknown not in ("pin", "error"):
        raise AutopermError(f'on_unknown must be "pin" or "error", not {on_unknown!r}')
    return infer_captured(capture(model, example_inputs, check=check), on_unknown=on_unknown)


def infer_captured(captured: Capture, *, on_unknown: Literal["pin", "error"] = "pin") -> PermutationSpec:
    """The same from a graph that is captured already."""
    with collection_paused():
        engine, solution = solved(captured)
        _report_values(captured)
        _report_unknown(engine, on_unknown)
        return SpecBuilder(engine, solution).build()


def solved(captured: Capture) -> tuple[Engine, Dependence]:
    """The statements about a graph, and what follows from them; as it is, or rewritten.

    Both are sound. The larger group is taken, that of the graph as it is where they are equal.
    """
    engine = Engine(captured).run()
    solution = solve(engine.system)
    again, found = _larger(captured, engine, solution)
    if still := _still(again, found):
        return _larger(captured, again, found, apart=still)
    return again, found


def _larger(
    captured: Capture, engine: Engine, solution: Dependence, apart: Sequence[str] = ()
) -> tuple[Engine, Dependence]:
    """The group of the graph in another form, if it is larger, or as large without stacks of which no part trades places."""
    if (other := rewritten(captured, apart)) is captured:
        return engine, solution
    try:
        again = Engine(other).run()
        found = solve(again.system)
        best = larger(found, solution) if apart else larger(solution, found)
    except RuleError as error:
        logger.warning("the graph stays as it is: what it can be rewritten as has no group: %s", error)
        return engine, solution
    return (engine, solution) if best is solution else (again, found)


def _still(engine: Engine, solution: Dependence) -> list[str]:
    """The stacks of which no part moves, those apart that are parts of another stack."""
    builder, captured = SpecBuilder(engine, solution), engine.capture
    names = ((captured.states[placeholder][0], tensor) for placeholder, tensor in engine.states.items())
    return [name for name, tensor in names if name in captured.stacks and not builder.moves_along(tensor, 0)]


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause the garbage collector: the many small objects made here are all needed until the end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _report_values(captured: Capture) -> None:
    if captured.tracer == "make_fx-real":
        warnings.warn(
            "the model's control flow depends on values, so it was traced on the example inputs' own; the group holds for "
            "the branches taken there. Check others with autoperm.verify",
            ValueDependentWarning,
            stacklevel=5,
        )


def _report_unknown(engine: Engine, on_unknown: str) -> None:
    if not engine.unsupported:
        return
    listed = "\n".join(f"  - {u}" for u in engine.unsupported[:10])
    more = len(engine.unsupported) - 10
    listed += f"\n  - and {more} more" if more > 0 else ""
    remedy = "To add a rule, see autoperm/rules/ and CONTRIBUTING.md."
    if on_unknown == "error":
        raise UnknownOpError(f"no rule for these ops of the model:\n{listed}\n{remedy}")
    message = f"no rule for {len(engine.unsupported)} ops of the model; all that they touch is pinned:\n{listed}\n{remedy}"
    warnings.warn(message, UnsupportedOpWarning, stacklevel=5)
