"""What to tell a user whose model could not be traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoperm.capture.program import Program
from autoperm.capture.provenance import source_of_error
from autoperm.errors import CaptureError

_ADVICE = (
    "Things to try: example inputs that the model accepts in evaluation mode; replacing control flow that looks at "
    "values by torch.where; wrapping the model in a module whose forward calls only the part of interest."
)


@dataclass
class Attempt:
    """A tracer's name, its exception, and the path of the submodule that was running."""

    tracer: str
    error: Exception
    module_path: str

    def __str__(self) -> str:
        return f"{self.tracer}: {_summary(self.error, self.module_path)}"


def _summary(error: Exception, module_path: str) -> str:
    """The first lines of an exception and where it rose."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()][:2]
    places = [f"in {module_path}" if module_path else "", source_of_error(error)]
    where = ", ".join(place for place in places if place)
    return f"{type(error).__name__}: {' '.join(lines)}"[:400] + (f" ({where})" if where else "")


def refused(program: Program, attempt: Attempt) -> None:
    """Run the model without tracing, to tell a model that cannot run from one that cannot be traced.

    Raises:
        CaptureError: the model itself raised.
    """
    if (
        isinstance(attempt.error, CaptureError)
        and program.outputs == []
        and "no tensor" in str(attempt.error)
    ):
        raise attempt.error
    if program.on_meta:
        if isinstance(attempt.error, TypeError):
            raise _refusal(program, attempt.error, attempt.module_path) from attempt.error
        return
    try:
        program(*program.real_tensors())
    except Exception as error:
        raise _refusal(program, error, program.stack.deepest) from error


def _refusal(program: Program, error: Exception, module_path: str) -> CaptureError:
    return CaptureError(
        f"the model's forward does not accept the example inputs: {_summary(error, module_path)}\n"
        f"shapes given: {program.inputs.describe()}\n"
        f"Call {type(program.model).__name__} on the same inputs in evaluation mode and correct them until it runs."
    )


def cannot_trace(program: Program, attempts: Sequence[Attempt]) -> CaptureError:
    """The error when every tracer failed."""
    meta = "\nThe model or its inputs are on the meta device; with real weights, make_fx-real could look at values."
    return CaptureError(
        f"{type(program.model).__name__} could not be traced on {program.inputs.describe()}. What each tracer said:\n"
        + "\n".join(f"  {attempt}" for attempt in attempts)
        + (meta if program.on_meta else "")
        + f"\n{_ADVICE}"
    )
