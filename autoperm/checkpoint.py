"""Reading and writing weights: safetensors, sharded safetensors, and torch.save files without running code."""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from autoperm.errors import CheckpointError
from autoperm.files import write_atomically

logger = logging.getLogger(__name__)

_NESTS = ("state_dict", "model_state_dict", "model", "module")
_SAFE = (".safetensors", ".sft")


def load_checkpoint(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Reads ``*.safetensors``, a shard index ``*.index.json``, and files of ``torch.save`` with ``weights_only=True``.
    Nests such as ``{"state_dict": ...}`` and the prefix ``module.`` of DataParallel are removed, which is logged.

    Raises:
        CheckpointError: the file is missing, unreadable, holds more than weights, or holds none.
    """
    source = Path(path)
    if source.is_dir():
        raise CheckpointError(f"{source} is a folder; name the file in it: *.safetensors, *.index.json or *.pt")
    if not source.is_file():
        raise CheckpointError(f"there is no checkpoint {source}")
    found = _unnest(_read(source), source)
    tensors = _tensors(found)
    if not tensors:
        raise CheckpointError(
            f"{source} holds {_described(found)} and no tensors by name; "
            "autoperm reads state dicts, as torch.save(model.state_dict(), path) writes them"
        )
    return tensors


def save_checkpoint(state: Mapping[str, torch.Tensor], path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Write tensors by name, atomically; safetensors by suffix, else with ``torch.save``.

    Tensors that share memory, as tied weights do, are written apart.

    Raises:
        CheckpointError: the file exists and ``overwrite`` is false, or it cannot be written.
    """
    target = Path(path)
    apart = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    if target.suffix in _SAFE:
        from safetensors.torch import save_file

        meta = {"format": "pt"}
        write_atomically(target, lambda temporary: save_file(apart, str(temporary), meta), overwrite=overwrite)
    else:
        write_atomically(target, lambda temporary: torch.save(apart, temporary), overwrite=overwrite)


def _read(source: Path) -> Any:
    if source.name.endswith(".index.json"):
        return _load_shards(source)
    return _load_safetensors(source) if source.suffix in _SAFE else _load_torch(source)


def _load_safetensors(source: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(source))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {source} as safetensors: {error}") from error


def _load_shards(source: Path) -> dict[str, torch.Tensor]:
    try:
        names = sorted({str(name) for name in json.loads(source.read_text())["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError(f"{source} is not a shard index: it has no weight_map ({error})") from error
    found: dict[str, torch.Tensor] = {}
    for name in names:
        shard = source.parent / name
        if not shard.is_file():
            raise CheckpointError(f"{source} names the shard {name}, which is not beside it")
        found.update(_load_safetensors(shard) if shard.suffix in _SAFE else _load_torch(shard))
    return found


def _load_torch(source: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is raised
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} is a pickle that holds more than weights, or no checkpoint at all. Loading it would run code "
            "from the file, which autoperm never does. Where you trust it, load it yourself and save the weights "
            "alone: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch raises what it likes on a file that is not one of its own
        cause = re.split(r"(?<=\w)\. |\n", f"{type(error).__name__}: {error}")[0].removesuffix(": ")
        raise CheckpointError(
            f"cannot read {source} as a checkpoint ({cause}); is it damaged, or another format?"
        ) from error


def _unnest(found: Any, source: Path) -> Any:
    while (key := _nest(found)) is not None:
        logger.info("%s: reading its entry %r", source, key)
        found = found[key]
    if isinstance(found, Mapping) and found and all(str(name).startswith("module.") for name in found):
        logger.info("%s: removing the prefix 'module.'", source)
        found = {str(name).removeprefix("module."): value for name, value in found.items()}
    return found


def _nest(found: Any) -> str | None:
    """The key of the entry that holds the weights, None where they are not nested."""
    if not isinstance(found, Mapping):
        return None
    return next((key for key in _NESTS if isinstance(found.get(key), Mapping)), None)


def _tensors(found: Any) -> dict[str, torch.Tensor]:
    if not isinstance(found, Mapping):
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _described(found: Any) -> str:
    """What is there instead of a state dict."""
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    names = [str(name) for name in found]
    return f"the entries {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "nothing"
