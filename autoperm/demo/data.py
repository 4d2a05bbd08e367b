"""Real images that ship with scikit-learn: 1,797 handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autoperm.errors import AutopermError


@dataclass(frozen=True)
class Split:
    """Images of shape (n, 1, 8, 8), standardised, and labels of shape (n,)."""

    images: torch.Tensor
    labels: torch.Tensor


def digits() -> tuple[Split, Split]:
    """The train and test splits, 1,347 and 450 images, always the same.

    Raises:
        AutopermError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise AutopermError("the demo needs scikit-learn: pip install 'autoperm[demo]'") from error
    source = load_digits()
    images = torch.tensor(source.images, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(source.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = (images[order] - images.mean()) / images.std(), labels[order]
    cut = 3 * len(labels) // 4
    return Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
