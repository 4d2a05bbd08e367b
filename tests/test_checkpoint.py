"""Reading and writing weights."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autoperm.checkpoint import load_checkpoint, save_checkpoint
from autoperm.errors import CheckpointError


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("name", ["w.safetensors", "w.sft", "w.pt", "w.bin", "w"])
def test_what_is_written_is_read(name: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_checkpoint(state, tmp_path / name)
    found = load_checkpoint(tmp_path / name)
    assert same({k: found[k] for k in state}, state)
    assert os.listdir(tmp_path) == [name], "nothing else is left behind"


def test_dtypes_survive(tmp_path: Path) -> None:
    state = {"half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3)}
    for name in ("w.safetensors", "w.pt"):
        save_checkpoint(state, tmp_path / name)
        found = load_checkpoint(tmp_path / name)
        assert same({k: found[k] for k in state}, state)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_tensors_that_share_memory_are_written_apart(name: str, tmp_path: Path) -> None:
    base = torch.arange(1000.0)
    save_checkpoint({"a": base[:2], "b": base[:2], "c": base[:4].view(2, 2).T}, tmp_path / name)
    found = load_checkpoint(tmp_path / name)
    assert torch.equal(found["a"], base[:2])
    assert torch.equal(found["c"], base[:4].view(2, 2).T)
    assert found["a"].data_ptr() != found["b"].data_ptr()
    assert (tmp_path / name).stat().st_size < 3000, "the memory around a view is not written"


def test_an_existing_file_is_kept_unless_told(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_text("precious")
    with pytest.raises(CheckpointError, match=r"w.pt exists and is kept; pass overwrite=True"):
        save_checkpoint(state, path)
    assert path.read_text() == "precious"
    save_checkpoint(state, path, overwrite=True)
    assert same(load_checkpoint(path), state)


def test_a_folder_that_is_missing_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write .*nowhere/w.pt: .* Is the folder .*nowhere there\?"):
        save_checkpoint(state, tmp_path / "nowhere" / "w.pt")


@pytest.mark.parametrize("nest", [("state_dict",), ("model",), ("model", "state_dict"), ("module", "model", "model")])
def test_nests_and_prefixes_are_removed(
    nest: tuple[str, ...], state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nested: dict = {f"module.{k}": v for k, v in state.items()}
    for key in nest:
        nested = {"epoch": 3, key: nested}
    torch.save(nested, tmp_path / "w.pt")
    with caplog.at_level(logging.INFO, "autoperm"):
        assert same(load_checkpoint(tmp_path / "w.pt"), state)
    assert caplog.text.count("reading its entry") == len(nest)
    assert "removing the prefix 'module.'" in caplog.text


def test_a_prefix_that_not_all_have_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert set(load_checkpoint(tmp_path / "w.pt")) == {"module.a", "b"}


def test_shards_are_joined(state: dict[str, Tensor], tmp_path: Path) -> None:
    names = list(state)
    parts = {"one.safetensors": names[:2], "two.safetensors": names[2:]}
    for file, keys in parts.items():
        save_file({k: state[k] for k in keys}, str(tmp_path / file))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: file for file, keys in parts.items() for k in keys}}))
    found = load_checkpoint(index)
    assert same({k: found[k] for k in state}, state)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the shard two.safetensors, which is not beside it"):
        load_checkpoint(index)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(text: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match=r"index.json is not a shard index: it has no weight_map"):
        load_checkpoint(index)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match=r"is a folder; name the file in it"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256))])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_files_that_are_no_checkpoints_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}"):
        load_checkpoint(tmp_path / name)


def test_a_truncated_file_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    for name in ("w.pt", "w.safetensors"):
        save_checkpoint(state, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match=rf"cannot read .*{name} as"):
            load_checkpoint(tmp_path / name)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(zipped: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "it-ran"
    if zipped:
        torch.save({"w": torch.ones(1), "trap": Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(CheckpointError, match="would run code .* save the weights alone: torch.save") as caught:
        load_checkpoint(path)
    assert "model.state_dict(), path" in str(caught.value)
    assert not mark.exists()


def test_a_whole_module_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="would run code"):
        load_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "described"),
    [
        ({"epoch": 3, "lr": 0.1}, "the entries epoch, lr"),
        ({str(k): k for k in range(9)}, "the entries 0, 1, 2, 3, 4, ..."),
        ({}, "nothing"),
        ([1, 2], "a list"),
        (torch.ones(2), "a Tensor"),
    ],
)
def test_a_file_without_tensors_by_name_is_described(content: object, described: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"holds {described} and no tensors by name; autoperm reads state dicts"):
        load_checkpoint(tmp_path / "w.pt")
