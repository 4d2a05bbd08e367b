"""Model zoos beside a CPU build of torch."""

from __future__ import annotations

from types import ModuleType

import torch

_LIBRARY: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """torchvision, whose wheel expects two CUDA-built ops: declaring their schemas is enough to import it."""
    global _LIBRARY
    if _LIBRARY is None:
        _LIBRARY = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            try:
                _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            except RuntimeError:  # a torchvision that brings its own
                pass
    import torchvision

    return torchvision
