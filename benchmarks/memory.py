"""Peak memory of matching: a process that loads two models and their spec, and one that matches them too.

    python benchmarks/memory.py resnet18 vit_b_16

Part of matching.py. Peaks are of the resident set, as the kernel reports them at the end of each process. Both processes
match a tiny model first, so that code which is loaded when matching begins is in both.
"""

from __future__ import annotations

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
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    autoperm.infer(tiny, torch.zeros(1, 3, 8, 8)).save(folder / "tiny.json")
    torch.save(tiny.state_dict(), folder / "tiny.pt")
    return {"both": size, "gram": 4 * max(group.size for group in spec.groups) ** 2}


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
    tiny, small = torch.load(folder / "tiny.pt", weights_only=True), autoperm.PermutationSpec.load(folder / "tiny.json")
    autoperm.match(tiny, small.random(0).apply(tiny), small, progress=False)
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
