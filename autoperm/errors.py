"""The errors that autoperm raises on purpose. All derive from :class:`AutopermError`.

A message says what went wrong, where (module path, parameter, op, shapes) and what to do about it.
"""

from __future__ import annotations


class AutopermError(Exception):
    """Root of every error that autoperm raises on purpose."""


class CaptureError(AutopermError):
    """The model could not be traced on the example inputs."""


class UnknownOpError(AutopermError):
    """The traced graph holds an op without a rule, and ``on_unknown="error"`` was asked for."""


class RuleError(AutopermError):
    """A bug of autoperm's: the rule of an op failed on operands that it should take."""


class SpecError(AutopermError):
    """A spec file is corrupt or too new, or a permutation belongs to another spec."""


class StateError(AutopermError):
    """A state dict or module does not fit: its keys, its shapes, or its values (NaN, infinity)."""


class CheckpointError(AutopermError):
    """A checkpoint cannot be read or written."""


class VerificationError(AutopermError):
    """Verification could not be carried out, for example because an output is constant."""
