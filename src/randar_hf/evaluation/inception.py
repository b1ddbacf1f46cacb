"""The Inception of FID: the network of the TensorFlow graph of 2015-12-05, with the names of its PyTorch file."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from randar_hf.checks import check_path

from .images import hash_file


WEIGHTS_FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
PUBLISHED_HASH = "6726825d"  # how the SHA-256 of the published file begins
INPUT_SIZE, NUM_FEATURES, NUM_LOGITS = 299, 2048, 1008
SPATIAL_SHAPE = (7, 17, 17)

# What stands side by side in a block: the convolutions of each branch as (channels, kernel), in their order.
BLOCK_A = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
BLOCK_B = {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
BLOCK_D = {
    "branch3x3": [(192, 1), (320, 3)],
    "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)],
}
BLOCK_E = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), (384, ((1, 3), (3, 1)))],
    "branch3x3dbl": [(448, 1), (384, 3), (384, ((1, 3), (3, 1)))],
    "branch_pool": [(192, 1)],
}


def _block_c(channels: int) -> dict:
    tall, flat = (7, 1), (1, 7)
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(channels, 1), (channels, flat), (192, tall)],
        "branch7x7dbl": [(channels, 1), (channels, tall), (channels, flat), (channels, tall), (192, flat)],
        "branch_pool": [(192, 1)],
    }


@dataclass
class InceptionOutput:
    """Features of B images: `pool` (B, 2048), `spatial` (B, 2023) and `logits` (B, 1008) without the bias."""

    pool: torch.Tensor
    spatial: torch.Tensor
    logits: torch.Tensor


class ConvNorm(nn.Module):
    """A convolution without bias, normalised, rectified."""

    def __init__(self, in_channels: int, channels: int, kernel: int | tuple[int, int], stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(states)))


class Block(nn.Module):
    """
    Branches side by side, concatenated; the last one pools.

    Args:
        in_channels (`int`): channels that come in.
        branches (`dict`): the convolutions of each branch; a pair of kernels stands for two side by side.
        pool (`str`): `"average"`, of what lies inside the image, or `"max"`.
        stride (`int`): 2 halves the sides, in the last convolution of each branch and in the pooling.
    """

    def __init__(self, in_channels: int, branches: dict, pool: str = "average", stride: int = 1):
        super().__init__()
        self.pool, self.stride, self.branches = pool, stride, {}
        for name, convolutions in branches.items():
            self.branches[name] = self._add_branch(name, in_channels, convolutions)

    def _add_branch(self, branch: str, in_channels: int, convolutions: list) -> list[list[str]]:
        """Names of the modules of a branch, one list a stage."""
        stages = []
        for index, (channels, kernels) in enumerate(convolutions, start=1):
            name = f"{branch}_{index}" if len(convolutions) > 1 else branch
            is_pair = isinstance(kernels, tuple) and isinstance(kernels[0], tuple)
            names = {f"{name}a": kernels[0], f"{name}b": kernels[1]} if is_pair else {name: kernels}
            reduces = self.stride == 2 and index == len(convolutions)
            for module_name, kernel in names.items():
                sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
                padding = 0 if reduces else tuple(side // 2 for side in sides)
                stride = self.stride if reduces else 1
                self.add_module(module_name, ConvNorm(in_channels, channels, sides, stride, padding))
            stages.append(list(names))
            in_channels = channels
        return stages

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        outputs = []
        for name, stages in self.branches.items():
            branch = self._pool(states) if name == "branch_pool" else states
            for names in stages:
                branch = torch.cat([getattr(self, name)(branch) for name in names], dim=1)
            outputs.append(branch)
        if "branch_pool" not in self.branches:
            outputs.append(self._pool(states))
        return torch.cat(outputs, dim=1)

    def _pool(self, states: torch.Tensor) -> torch.Tensor:
        padding = 1 if self.stride == 1 else 0
        if self.pool == "max":
            return F.max_pool2d(states, 3, self.stride, padding)
        return F.avg_pool2d(states, 3, self.stride, padding, count_include_pad=False)


class InceptionFeatures(nn.Module):
    """
    What FID, sFID and the Inception Score see in images; [`from_file`] and [`from_pretrained`] bring the weights.

    Attributes:
        sha256 (`str`): hash of the file of the weights, `""` for random ones.
        is_published (`bool`): whether they are the published ones, by that hash.
    """

    name = "inception-2015-12-05"
    resize_rule = f"bilinear to {INPUT_SIZE} x {INPUT_SIZE} as in TensorFlow 1, no half-pixel centres, no antialiasing"

    def __init__(self):
        super().__init__()
        self.sha256 = ""
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = Block(192, BLOCK_A | {"branch_pool": [(32, 1)]})
        self.Mixed_5c = Block(256, BLOCK_A | {"branch_pool": [(64, 1)]})
        self.Mixed_5d = Block(288, BLOCK_A | {"branch_pool": [(64, 1)]})
        self.Mixed_6a = Block(288, BLOCK_B, pool="max", stride=2)
        self.Mixed_6b = Block(768, _block_c(128))
        self.Mixed_6c = Block(768, _block_c(160))
        self.Mixed_6d = Block(768, _block_c(160))
        self.Mixed_6e = Block(768, _block_c(192))
        self.Mixed_7a = Block(768, BLOCK_D, pool="max", stride=2)
        self.Mixed_7b = Block(1280, BLOCK_E)
        self.Mixed_7c = Block(2048, BLOCK_E, pool="max")
        self.fc = nn.Linear(NUM_FEATURES, NUM_LOGITS)
        self.eval().requires_grad_(False)

    @property
    def is_published(self) -> bool:
        return self.sha256.startswith(PUBLISHED_HASH)

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "InceptionFeatures":
        """
        Load the weights from a file of the published layout.

        Args:
            path (`str`): `pt_inception-2015-12-05-6726825d.pth`, or the same tensors as safetensors.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read, or holds the weights of another network.
        """
        path = check_path("path", path)
        if not path.is_file():
            raise FileNotFoundError(f"`path` must be a file with the weights of Inception, got {str(path)!r}.")
        tensors = {
            name: tensor for name, tensor in _read_tensors(path).items() if not name.endswith(".num_batches_tracked")
        }
        with torch.device("meta"):
            network = cls()
        needed = {n: tuple(t.shape) for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != needed:
            name = next(n for n in [*needed, *found] if needed.get(n) != found.get(n))
            raise ValueError(
                f"`path` must hold the weights of the Inception of 2015-12-05, got another network in {str(path)!r}: "
                f"{name} is {found.get(name, 'missing')} there, not {needed.get(name, 'expected')}."
            )
        network = network.to_empty(device="cpu")
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
        network.sha256 = hash_file(path)
        return network.eval()

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> InceptionOutput:
        """
        Features of images.

        Args:
            images (`torch.Tensor` of shape (B, 3, H, W)): uint8, any size; resized to 299 x 299 as in TensorFlow 1.

        Raises:
            ValueError: for another type or shape.
        """
        states = (resize_tensorflow(check_images(images).to(self.fc.weight.device), INPUT_SIZE) - 128) / 128
        states = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(states)))  # (B, 64, 147, 147)
        states = F.max_pool2d(states, 3, 2)
        states = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(states)), 3, 2)  # (B, 192, 35, 35)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c):
            states = block(states)
        states = self.Mixed_6d(states)  # (B, 768, 17, 17)
        spatial = states[:, : SPATIAL_SHAPE[0]].flatten(1)  # (B, 2023): of its first branch
        for block in (self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c):
            states = block(states)
        pool = states.mean(dim=(2, 3))  # (B, 2048)
        return InceptionOutput(pool=pool, spatial=spatial, logits=pool @ self.fc.weight.T)


def check_images(images: torch.Tensor) -> torch.Tensor:
    """Raise a `ValueError` unless these are uint8 images (B, 3, H, W)."""
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"`images` must be a uint8 tensor with values from 0 to 255, got {found}.")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"`images` must have the shape (images, 3, height, width), got {tuple(images.shape)}.")
    return images


def resize_tensorflow(images: torch.Tensor, size: int) -> torch.Tensor:
    """
    Bilinear interpolation as TensorFlow 1 does it: pixel i of the result lies at `i * side / size`.

    Args:
        images (`torch.Tensor` of shape (B, C, H, W)): any type.
        size (`int`): both sides of the result.

    Returns:
        `torch.Tensor` of shape (B, C, size, size), float32.
    """
    images = images.float()
    for dim in (3, 2):
        side = images.shape[dim]
        if side == size:
            continue
        positions = torch.arange(size, dtype=torch.float32, device=images.device) * (side / size)  # (size,)
        lower = positions.long().clamp(max=side - 1)
        upper = (lower + 1).clamp(max=side - 1)
        weights = (positions - lower).unsqueeze(-1) if dim == 2 else positions - lower
        images = torch.lerp(images.index_select(dim, lower), images.index_select(dim, upper), weights)
    return images


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    except (OSError, RuntimeError, EOFError, AttributeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = "it is damaged, or holds more than tensors; no code in it was run"
        raise ValueError(f"`path` must be a file of tensors, got {str(path)!r}: {reason}.") from error
