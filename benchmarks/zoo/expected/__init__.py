"""What an architecture says of its group, for models that are too large for the automorphism oracle.

Expectations are read from the module tree and the shapes of the parameters alone, never from the inference, and then asked of
the spec. ``run.py`` has the command's part, ``expectation.py`` the words.
"""

from benchmarks.zoo.expected.expectation import KINDS, Expectation, Verdict, judge
from benchmarks.zoo.expected.gather import expectations

__all__ = ["KINDS", "Expectation", "Verdict", "expectations", "judge"]
