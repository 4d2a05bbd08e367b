"""The worked example of docs/your-model.md is what the page says."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

import autoperm

PAGE = Path(__file__).resolve().parent.parent / "docs" / "your-model.md"


def test_the_example_prints_what_the_page_shows() -> None:
    text = PAGE.read_text()
    source = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    space: dict[str, object] = {}
    exec(source, space)
    torch.manual_seed(0)
    model, image = space["Induced"]().eval(), torch.randn(1, 3, 16, 16)  # type: ignore[operator]
    spec = autoperm.infer(model, image)
    assert str(spec).strip() in text
    assert all(f"{place} {reason}" in text for place, reason in spec.pinned.items())
    assert len(spec.pinned) == sum(line.startswith("('") for line in text.splitlines())
    f = math.factorial
    assert spec.order == f(24) ** 3 * f(4) * f(6) ** 4 * f(3) * f(8) ** 6
    assert autoperm.verify(model, spec, image).ok
