"""Models and inputs named by strings, for the command line."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoperm.errors import AutopermError

FORMS = "torchvision:NAME, timm:NAME, hf:DIR (a folder with config.json) or package.module:factory"
INPUT_FORMS = "a shape such as 1x3x224x224 or 1x16:int64, or package.module:function"
_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?::(\w+))?")


def load_model(text: str, *, meta: bool = False) -> nn.Module:
    """The model that a string names, in eval mode; zoo models have random weights.

    Arguments:
        text: ``torchvision:NAME``, ``timm:NAME``, ``hf:DIR`` or ``package.module:factory``.
        meta: build it on the meta device, without memory for its weights. That suffices for inference, but where
            a model computes with its buffers while it is traced, more may come out pinned.

    Raises:
        AutopermError: the form is unknown, a package is missing, there is no such model, or it cannot be built.
    """
    kind, _, name = text.partition(":")
    if not kind or not name:
        raise AutopermError(f"{text!r} does not name a model; use {FORMS}")
    loader = {"torchvision": _torchvision, "timm": _timm, "hf": _transformers}.get(kind)
    with torch.device("meta") if meta else contextlib.nullcontext():
        model = loader(name) if loader else _factory(kind, name)
    if not isinstance(model, nn.Module):
        raise AutopermError(f"{text} gives a {type(model).__name__}, not a torch.nn.Module")
    return model.eval()


def load_inputs(texts: Sequence[str], model_text: str, model: nn.Module) -> Any:
    """Example inputs from strings such as ``1x3x224x224``, ``1x16:int64`` or ``package.module:function``.

    Without any, zoo models get inputs of their default size.

    Raises:
        AutopermError: a string is neither, or the model has no default.
    """
    if not texts:
        return _default(model_text, model)
    made = [_input(text) for text in texts]
    return made[0] if len(made) == 1 else tuple(made)


def _input(text: str) -> Any:
    match = _SHAPE.fullmatch(text)
    if match is None:
        kind, _, name = text.partition(":")
        if not kind or not name:
            raise AutopermError(f"{text!r} is not an input; use {INPUT_FORMS}")
        return _factory(kind, name)
    shape = [int(n) for n in match[1].split("x")]
    dtype = getattr(torch, match[2] or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise AutopermError(f"{text!r}: there is no dtype {match[2]!r}; try float32, float64, int64 or bool")
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _default(text: str, model: nn.Module) -> Any:
    kind, _, name = text.partition(":")
    shape: Sequence[int] | None = None
    if kind == "hf":
        return _tokens(text, model)
    if kind == "torchvision":
        shape = _torchvision_shape(name, model)
    elif kind == "timm":
        shape = (1, *model.default_cfg["input_size"])  # type: ignore[index, misc]
    if shape is None:
        raise _needs_input(text)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _torchvision_shape(name: str, model: nn.Module) -> Sequence[int] | None:
    """The images or clips that a torchvision model takes; None where it takes something else."""
    family = _import("torchvision").models.get_model_builder(name).__module__.split(".")
    if "detection" in family or "optical_flow" in family:
        return None
    if "video" in family:
        return (1, 3, 16, 224, 224) if "mvit" in name or "swin" in name else (1, 3, 16, 112, 112)
    size = getattr(model, "image_size", 299 if "inception" in name else 224)
    return (1, 3, size, size)


def _tokens(text: str, model: nn.Module) -> dict[str, torch.Tensor]:
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise _needs_input(text)
    generator = torch.Generator().manual_seed(0)
    return {"input_ids": torch.randint(0, vocabulary, (1, 16), generator=generator)}


def _needs_input(text: str) -> AutopermError:
    return AutopermError(f"{text} needs an example input: --input with {INPUT_FORMS}")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AutopermError(f"{name} cannot be imported ({error}): pip install 'autoperm[zoo]'") from error
    except RuntimeError as error:
        raise AutopermError(
            f"{name} does not load beside torch {torch.__version__} ({error}). Install the torchvision that was built for this "
            "torch, from the same index: a CUDA build does not load beside a CPU one"
        ) from error


def _unknown(kind: str, name: str, known: Sequence[str]) -> AutopermError:
    close = difflib.get_close_matches(name, known, 5) or [k for k in known if name in k][:5]
    return AutopermError(f"{kind} has no {name!r}" + (f"; close to it: {', '.join(close)}" if close else ""))


def _torchvision(name: str) -> nn.Module:
    models = _import("torchvision").models
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    with _failing(f"torchvision:{name}"):
        options = {"weights_backbone": None} if "detection" in models.get_model_builder(name).__module__ else {}
        return models.get_model(name, weights=None, **options)


def _timm(name: str) -> nn.Module:
    timm = _import("timm")
    if name not in timm.list_models():
        raise _unknown("timm", name, timm.list_models())
    with _failing(f"timm:{name}"):
        return timm.create_model(name, pretrained=False)


def _transformers(folder: str) -> nn.Module:
    if not (Path(folder) / "config.json").is_file():
        raise AutopermError(f"hf:{folder} needs a folder with config.json; there is none at {Path(folder).resolve()}")
    transformers = _import("transformers")
    with _failing(f"hf:{folder}"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        for name in config.architectures or ():
            if hasattr(transformers, name):
                return getattr(transformers, name)(config)
        return transformers.AutoModel.from_config(config)


def _factory(module: str, name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with _failing(f"importing {module}", ModuleNotFoundError):
            found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AutopermError(f"cannot import {module}: {error}. Models are {FORMS}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise _unknown(module, name, [n for n in dir(found) if not n.startswith("_")])
        found = getattr(found, part)
    if isinstance(found, nn.Module) or not callable(found):
        return found
    needed = [p.name for p in _parameters(found) if p.default is p.empty and p.kind in (0, 1, 3)]
    if needed:
        raise AutopermError(f"{module}:{name} needs arguments ({', '.join(needed)}); give a factory that needs none")
    with _failing(f"{module}:{name}"):
        return found()


def _parameters(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # of a function in C
        return []


@contextlib.contextmanager
def _failing(what: str, *passed: type[Exception]) -> Iterator[None]:
    """Turn whatever foreign code raises into a controlled error that names the line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (AutopermError, *passed)):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if last.filename.startswith("<") else f" ({last.filename}:{last.lineno})"
        reason = str(error).strip().split("\n")[0]
        raise AutopermError(f"{what} failed with {type(error).__name__}: {reason}{where}") from error
