"""torchvision: every float model, on small images where the architecture allows it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry
from tests.zoo import import_torchvision

#: The shape of one input, without the batch; 3 x 64 x 64 for the others.
SHAPES = {
    "vit_h_14": (3, 224, 224), "vit": (3, 224, 224), "maxvit": (3, 224, 224), "inception": (3, 96, 96),
    "mvit": (3, 16, 224, 224), "s3d": (3, 14, 224, 224), "swin3d": (3, 4, 64, 64), "r3d": (3, 4, 32, 32),
    "mc3": (3, 4, 32, 32), "r2plus1d": (3, 4, 32, 32), "ssd": (3, 128, 128), "raft": (3, 128, 128),
}  # fmt: skip
DETECTORS = ("fasterrcnn", "fcos", "keypointrcnn", "maskrcnn", "retinanet", "ssd")
FAMILIES = ("convnext", "densenet", "efficientnet_v2", "efficientnet", "mnasnet", "mvit_v1", "mvit_v2", "regnet_x",
            "regnet_y", "resnext", "resnet", "shufflenet_v2", "squeezenet", "swin_v2", "swin3d", "swin", "vgg",
            "vit", "wide_resnet")  # fmt: skip


def entries(full: bool) -> Sequence[Entry]:
    """All of them; ``full`` makes no difference."""
    models = import_torchvision().models
    _plain_nms()
    return [_entry(name) for name in models.list_models() if not name.startswith("quantized_")]


def _entry(name: str) -> Entry:
    detector = name.startswith(DETECTORS)
    return Entry(name, _family(name), _builder(name, detector), _detector_inputs if detector else _inputs(name))


def _family(name: str) -> str:
    bn = "_bn" if re.fullmatch(r"vgg\d+_bn", name) else ""
    return next((f + bn for f in FAMILIES if name.startswith(f)), name)


def _builder(name: str, detector: bool) -> Callable[[], nn.Module]:
    options: dict[str, Any] = {"weights": None}
    if detector or name.startswith(("deeplab", "fcn", "lraspp")):
        options["weights_backbone"] = None
    if detector:
        options |= {"num_classes": 5, **_few_boxes(name)}
    return lambda: import_torchvision().models.get_model(name, **options)


def _few_boxes(name: str) -> dict[str, Any]:
    """Options that keep a detector's boxes few: each one becomes ops of the graph."""
    if "rcnn" in name:
        return {"min_size": 64, "max_size": 64, "rpn_pre_nms_top_n_test": 12, "rpn_post_nms_top_n_test": 6,
                "box_detections_per_img": 4, "box_score_thresh": 0.0}  # fmt: skip
    size = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    return {**size, "topk_candidates": 12, "detections_per_img": 4, "score_thresh": 0.0}


def _inputs(name: str) -> Callable[[nn.Module], Any]:
    shape = next((s for start, s in SHAPES.items() if name.startswith(start)), (3, 64, 64))
    if name.startswith("raft"):
        return lambda model: (torch.rand(1, *shape) * 2 - 1, torch.rand(1, *shape) * 2 - 1, 2)
    return lambda model: torch.randn(1, *shape)


def _detector_inputs(model: nn.Module) -> Any:
    """A list of images is one argument."""
    return ([torch.rand(3, 64, 64)],)


def _plain_nms() -> None:
    """torchvision's own is a compiled op, which its wheel lacks beside a CPU build of torch; RoIAlign compiles its stand-in."""
    from torchvision.ops import boxes

    roi_align = sys.modules["torchvision.ops.roi_align"]  # the attribute of that name is a function
    boxes.nms = nms
    roi_align._roi_align = getattr(roi_align._roi_align, "__wrapped__", roi_align._roi_align)


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: boxes by falling score, without those that overlap an earlier one.

    Arguments:
        dets: (n, 4), corners.
        scores: (n,).
        iou_threshold: the share of overlap above which the later box goes.

    Returns:
        Indices of the boxes kept.
    """
    from torchvision.ops.boxes import box_iou

    order = scores.argsort(descending=True, stable=True)
    overlap = (box_iou(dets[order], dets[order]) > iou_threshold).tolist()
    kept: list[int] = []
    for k in range(len(order)):
        if not any(overlap[j][k] for j in kept):
            kept.append(k)
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]
