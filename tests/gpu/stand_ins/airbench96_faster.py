"""A stand-in for the file that airbench96 fetches: the names that its adapters import, in few lines.

Written for the tests, so that the environment runs without a download. Limits: nothing of the public file is in it,
and its scores say nothing.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad

CIFAR_MEAN = torch.tensor((0.4914, 0.4822, 0.4465))
CIFAR_STD = torch.tensor((0.2470, 0.2435, 0.2616))
DEVICE = "cuda"


class Flatten(nn.Module):
    def forward(self, x):
        return x.flatten(1)


class Mul(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x * self.scale


class BatchNorm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.weight.requires_grad = False


class Conv(nn.Conv2d):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, kernel_size=3, padding="same", bias=False)


class ConvGroup(nn.Module):
    def __init__(self, inputs, outputs, depth):
        super().__init__()
        layers = []
        for number in range(depth):
            layers += [Conv(inputs if number == 0 else outputs, outputs)]
            layers += [nn.MaxPool2d(2)] if number == 0 else []
            layers += [BatchNorm(outputs), nn.GELU()]
        self.norms = nn.Sequential(*layers)

    def forward(self, x):
        return self.norms(x)


def make_net(shape):
    widths = list(shape["widths"].values())
    first = nn.Conv2d(3, 24, kernel_size=2, padding=0, bias=True)
    first.weight.requires_grad = False
    groups = [ConvGroup(a, b, shape["depth"]) for a, b in zip([24, *widths], widths, strict=False)]
    net = nn.Sequential(
        first, nn.GELU(), *groups, nn.AdaptiveMaxPool2d(1), Flatten(),
        nn.Linear(widths[-1], 10, bias=False), Mul(shape["scaling_factor"]),
    )  # fmt: skip
    net = net.to(DEVICE).to(memory_format=torch.channels_last).half()
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.float()
    return net


def reinit_net(net):
    for module in net.modules():
        if type(module) in (Conv, nn.Conv2d, BatchNorm, nn.Linear):
            module.reset_parameters()


def get_patches(images, size):
    patches = images.unfold(2, size, 1).unfold(3, size, 1)
    return patches.transpose(1, 3).reshape(-1, 3, size, size).float()


def get_whitening_parameters(patches):
    flat = patches.flatten(1)
    flat = flat - flat.mean(dim=0)
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    return values.flip(0), vectors.T.flip(0).reshape(-1, 3, patches.shape[2], patches.shape[3])


def init_whitening_conv(layer, images):
    values, vectors = get_whitening_parameters(get_patches(images[:200], layer.weight.shape[2]))
    filters = (vectors / (values + 5e-4).sqrt()[:, None, None, None]).to(layer.weight.dtype)
    layer.weight.data[:] = torch.cat((filters, -filters))


def batch_flip_lr(images):
    flip = (torch.rand(len(images), device=images.device) < 0.5)[:, None, None, None]
    return torch.where(flip, images.flip(-1), images)


def batch_crop(images, size):
    margin = (images.shape[-1] - size) // 2
    down, right = torch.randint(0, 2 * margin + 1, (2,)).tolist()
    return images[..., down : down + size, right : right + size]


def make_random_square_masks(images, size):
    corner = torch.randint(0, images.shape[-1] - size + 1, (2, len(images)), device=images.device)
    place = torch.arange(images.shape[-1], device=images.device)
    inside = [(place >= c[:, None]) & (place < c[:, None] + size) for c in corner]
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]


def batch_cutout(images, size):
    return images.masked_fill(make_random_square_masks(images, size), 0)


class InfiniteCifarLoader:
    """Batches for ever, as (indices, images, labels)."""

    def __init__(self, folder, train=True, batch_size=512, aug=None, aug_seed=None, order_seed=None):
        data = torch.load(
            Path(folder) / ("train.pt" if train else "test.pt"), map_location=DEVICE, weights_only=True
        )
        self.images = (data["images"].half() / 255).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
        self.labels, self.batch, self.aug = data["labels"], batch_size, aug or {}
        torch.manual_seed(order_seed or 0)

    def normalize(self, images):
        mean, std = (x.to(images)[None, :, None, None] for x in (CIFAR_MEAN, CIFAR_STD))
        return (images - mean) / std

    def __iter__(self):
        while True:
            for chosen in torch.randperm(len(self.images), device=DEVICE).split(self.batch):
                if len(chosen) < self.batch:
                    continue
                images = self.normalize(self.images[chosen])
                if self.aug.get("flip"):
                    images = batch_flip_lr(images)
                if self.aug.get("translate"):
                    images = batch_crop(pad(images, (self.aug["translate"],) * 4, "reflect"), 32)
                if self.aug.get("cutout"):
                    images = batch_cutout(images, self.aug["cutout"])
                yield chosen, images, self.labels[chosen]


def infer(net, loader, views):
    images = loader.normalize(loader.images)
    with torch.no_grad():
        scores = net(images)
        return scores if not views else (scores + net(images.flip(-1))) / 2


class LookaheadState:
    def __init__(self, net):
        self.kept = {name: value.clone() for name, value in net.state_dict().items()}

    def update(self, net, decay):
        for name, value in net.state_dict().items():
            if value.dtype in (torch.half, torch.float):
                self.kept[name].lerp_(value, 1 - decay)
                value.copy_(self.kept[name])
