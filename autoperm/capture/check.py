"""Whether a trace is what the model computes: both run on the example inputs, the model twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from autoperm.capture.program import Program
from autoperm.errors import CaptureError

logger = logging.getLogger(__name__)

#: How far the trace may be off, of the largest entry of an output: much more than rounding, much less than another function.
TOLERANCE = 1e-2
#: The same where a dtype has fewer digits than single precision.
COARSE = 0.3


class HiddenStateError(CaptureError):
    """The second of two equal calls gives something else."""


def check_trace(program: Program, graph_module: fx.GraphModule) -> None:
    """Compare what the trace and the model compute; nothing to do where either cannot run (on the meta device, say).

    Raises:
        HiddenStateError: the model keeps state where that cannot be seen.
        CaptureError: the outputs differ: the model looks at whether it is traced, or at types or flags of its weights.
    """
    if program.on_meta or _draws(graph_module.graph):
        return
    try:
        first, second = program.plainly(2)
        traced = fx.Interpreter(graph_module).run(*program.real_tensors(functional=True), enable_io_processing=False)
    except CaptureError:
        raise
    except Exception:
        logger.debug("the trace is not compared with the model, which does not run", exc_info=True)
        return
    names = program.outputs
    if (name := _different(names, first, second)) and not program.changed:
        raise HiddenStateError(
            f"{name} differs between two calls with the same inputs: the forward of {type(program.model).__name__} changes a "
            "parameter, keeps state elsewhere than in a buffer, or draws random numbers that torch does not know of. Register "
            "state as a buffer, or take it as an input and return it"
        )
    if name := _different(names, first, traced):
        raise CaptureError(
            f"{name} of the trace is not what the model computes: its forward asks whether it is traced, or of what type its "
            "weights are or whether they need gradients. Take the same branch in both cases. Where it chooses among scores that "
            "are equal up to rounding (argmax of differences that are zero), pass other example inputs"
        )


def _draws(graph: fx.Graph) -> bool:
    """Whether random numbers are drawn: a trace draws others."""
    tag = torch.Tag.nondeterministic_seeded
    return any(tag in node.target.tags for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload))


def _different(names: Sequence[str], ones: Sequence[Tensor], others: Sequence[Tensor]) -> str:
    """The first output in which two runs differ; empty if none does."""
    if len(ones) < len(names) or len(others) < len(names):
        return names[min(len(ones), len(others))]
    return next((name for name, a, b in zip(names, ones, others, strict=False) if not _agree(a, b)), "")


def _agree(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.layout != torch.strided or b.layout != torch.strided or not a.numel():
        return True
    if not (a.is_floating_point() or a.is_complex()):
        # Rounding decides a few near ties otherwise.
        return float((a != b).double().mean()) < 0.5
    if torch.finfo(a.dtype).bits // (2 if a.is_complex() else 1) < 16:
        return True
    tolerance = TOLERANCE if torch.finfo(a.dtype).eps < 1e-5 else COARSE
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = (t.detach().to(wide).nan_to_num(0, 0, 0) for t in (a, b))
    return float((a - b).abs().max()) <= tolerance * float(a.abs().max()) + 1e-12
