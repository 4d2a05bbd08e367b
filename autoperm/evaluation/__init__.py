"""Judging merged networks: calibration, ensembles, planes through weight space, and the plots of each."""

from __future__ import annotations

from autoperm.evaluation.calibration import Calibration, calibration
from autoperm.evaluation.ensemble import Ensemble, ensemble
from autoperm.evaluation.plane import Plane, plane

__all__ = ["Calibration", "Ensemble", "Plane", "calibration", "ensemble", "plane"]
