"""Architectures of transformers whose forward is no function of tensors, and what is called in its place."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn


class Called(nn.Module):
    """A model that has no forward, only a method."""

    def __init__(self, model: nn.Module, method: str):
        super().__init__()
        self.model, self.method, self.config = model, method, model.config

    def forward(self, hidden_states: Tensor) -> Any:
        return getattr(self.model, self.method)(hidden_states)


class Tracked(nn.Module):
    """A tracker: what it says of an object in each frame of a video, of which a point in the first is given.

    The session, which holds what a tracker remembers, is made anew in each call.
    """

    def __init__(self, model: nn.Module, session: type):
        super().__init__()
        self.model, self.session, self.config = model, session, model.config

    def forward(self, pixel_values_videos: Tensor, input_points: Tensor) -> tuple[dict[str, Tensor], ...]:
        n, _, height, width = pixel_values_videos.shape
        session = self.session(pixel_values_videos, height, width, dtype=pixel_values_videos.dtype)
        index = session.obj_id_to_idx(1)
        labels = torch.ones(input_points.shape[:-1], dtype=torch.int32)
        session.add_point_inputs(index, 0, {"point_coords": input_points, "point_labels": labels})
        session.obj_with_new_inputs.append(1)
        forward = type(self.model).forward
        forward = getattr(forward, "__wrapped__", forward)  # not in inference mode, in which no graph is recorded
        for k in range(n):
            forward(self.model, session, frame_idx=k)
        remembered = session.output_dict_per_obj[index]
        return tuple(
            {name: value for name, value in frame.items() if isinstance(value, Tensor)}
            for kind in ("cond_frame_outputs", "non_cond_frame_outputs")
            for frame in remembered[kind].values()
        )


def _tracked(kind: str) -> Callable[[nn.Module], nn.Module]:
    def wrap(model: nn.Module) -> nn.Module:
        return Tracked(model, getattr(import_module(type(model).__module__), f"{kind}InferenceSession"))

    return wrap


#: Model type -> the module around a model.
WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "glm_image_vqmodel": lambda model: Called(model, "encode"),
    "sam2_video": _tracked("Sam2Video"),
    "sam3_tracker_video": _tracked("Sam3TrackerVideo"),
    "edgetam_video": _tracked("EdgeTamVideo"),
}
#: Model type -> why no model of it can be run.
UNAVAILABLE: dict[str, str] = {
    "sam3_video": "which objects it tracks is decided by values, in Python; its parts are on their own: sam3, sam3_tracker_video",
}
