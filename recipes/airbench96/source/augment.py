"""What a training image may become, which images the main network sees, and the views of a test image.

Use: `loader(folder, batch, seed)`, `scores(net, images)`. Limits: the loader of the fetched file reads
`train.pt` from the folder it is given; every view of a test image is paid for.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import airbench96_faster as upstream
import torch
import torchvision.transforms as transforms
from torch import Tensor, nn

CHANGES = {"flip": True, "translate": 4, "cutout": 12}
VIEWS = 2  # 0: the image; 1: and its mirror; 2: and both moved by a pixel to two sides
KEPT = 512  # of a batch, the examples that are hardest for the proxy


def loader(folder: Path, batch: int, seed: int) -> upstream.InfiniteCifarLoader:
    return upstream.InfiniteCifarLoader(
        str(folder), train=True, batch_size=batch, aug=CHANGES, aug_seed=seed, order_seed=seed
    )


def scores(net: nn.Module, images: Tensor) -> Tensor:
    """(n, 32, 32, 3) uint8 on the device -> (n, 10) scores, the weighted mean over all views."""
    halves = (images.half() / 255).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
    normalise = transforms.Normalize(upstream.CIFAR_MEAN, upstream.CIFAR_STD)
    return upstream.infer(net, SimpleNamespace(images=halves, normalize=normalise), VIEWS)
