"""Results that wait: an op that knows them can say more about what comes of them than any label could."""

from __future__ import annotations

from typing import Any

from torch import fx

from autoperm.inference.views import View


class Deferred:
    """What a node is known to be, where a plain label would have to leave something out.

    Only ops that ask for it see it; for all others it is settled: a label is made, once.
    """

    def settle(self, labels: Any, node: fx.Node) -> View:
        """A plain label of the node, with all statements and pins that it needs."""
        raise NotImplementedError
