"""Peak memory of matching: a process that loads two models and their spec, and one that matches them too.

    python benchmarks/memory.py resnet18 vit_b_16

Part of matching.py. Peaks are of the resident set, as the kernel reports them at the end of each process. Both processes
match a small pair first, so that what is read of libraries' code when it first runs is in both: 6 MB of file-backed pages,
whatever is matched, which the kernel can drop. The small pair has a convolution, a grouped one and a layer too wide for the
dense assignment solver. What it leaves behind that is free goes back to the system, so that it hides nothing.
"""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import autoperm
from autoperm.trained import randomize_
from tests.zoo import import_torchvision


def prepare(name: str, folder: Path) -> dict[str, float]:
    """Two random models and their spec, written to a folder; the bytes of both and of the largest Gram matrix."""
    models = import_torchvision().models
    size = 0
    for seed in range(2):
        torch.manual_seed(seed)
        model = models.get_model(name).eval()
        randomize_(model, seed)
        torch.save(model.state_dict(), folder / f"{seed}.pt")
        size += sum(p.numel() * p.element_size() for p in model.parameters())
    spec = autoperm.infer(model, torch.zeros(1, 3, 224, 224))
    spec.save(folder / "spec.json")
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(small().state_dict(), folder / f"small{seed}.pt")
    autoperm.infer(small(), torch.zeros(1, 3, 8, 8)).save(folder / "small.json")
    return {"both": size, "gram": 4 * max(group.size for group in spec.groups) ** 2}


def small() -> nn.Module:
    """A network that makes matching run the code that it runs for large ones."""
    convolutions = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8 * 16, 512), nn.ReLU(), nn.Linear(512, 4)).eval()


def warm_up(folder: Path) -> None:
    """Match the small pair, and give back to the system what is free then, where the C library can."""
    pair = [torch.load(folder / f"small{seed}.pt", weights_only=True) for seed in range(2)]
    autoperm.match(*pair, autoperm.PermutationSpec.load(folder / "small.json"), progress=False)
    del pair
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak() -> int:
    """The largest resident set of this process, in bytes.

    ``ru_maxrss`` begins with that of the process that started this one, so that Linux's own count comes first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(folder: Path, what: str) -> None:
    """Load, and match if that is ``what``; print the peak in bytes."""
    warm_up(folder)
    a, b = (torch.load(folder / f"{seed}.pt", weights_only=True) for seed in range(2))
    spec = autoperm.PermutationSpec.load(folder / "spec.json")
    if what == "match":
        autoperm.match(a, b, spec, progress=False)
    print(json.dumps(peak()))


def measure(name: str) -> dict[str, object]:
    """A row of the table; what is allowed beyond loading is half the size of both models and the largest Gram matrix."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = json.loads(_run("prepare", folder, name))
        load, match = (float(_run(what, folder, name)) for what in ("load", "match"))
    allowed = 0.5 * sizes["both"] + sizes["gram"]
    return {
        "model": name,
        "both models (MB)": f"{sizes['both'] / 1e6:.0f}",
        "largest Gram matrix (MB)": f"{sizes['gram'] / 1e6:.0f}",
        "peak, loaded (MB)": f"{load / 1e6:.0f}",
        "peak, matched (MB)": f"{match / 1e6:.0f}",
        "more (MB)": f"{(match - load) / 1e6:.0f}",
        "allowed (MB)": f"{allowed / 1e6:.0f}",
        "more / allowed": f"{(match - load) / allowed:.2f}",
    }


def _run(*words: str) -> str:
    done = subprocess.run([sys.executable, __file__, "--child", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        kind, where, model_name = sys.argv[2:]
        if kind == "prepare":
            print(json.dumps(prepare(model_name, Path(where))))
        else:
            child(Path(where), kind)
    else:
        for each in sys.argv[1:]:
            print(measure(each), flush=True)
