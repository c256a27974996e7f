"""The same training loop in PyTorch, as its documentation has it (extra "benchmarks"); imports nothing of lpg_jax."""

import contextlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import images
from benchmarks.timing import seconds_of


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN and a shortcut without parameters."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] -> [B, width, H / stride, W / stride]."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        before = self.extra // 2
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))
        return functional.relu(y + shortcut)


class ResNet(nn.Module):
    """The ResNet of depth 6n + 2 for CIFAR (He et al. 2016)."""

    def __init__(self, depth: int, num_classes: int = 10, channels: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        inputs, self.blocks = 16, []
        for stage, width in enumerate((16, 32, 64)):
            for index in range((depth - 2) // 6):
                block = Block(inputs, width, 2 if stage > 0 and index == 0 else 1)
                self.add_module(f"stage{stage}_block{index}", block)
                self.blocks.append(block)
                inputs = width
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, H, W] -> logits [B, C]."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class MLP(nn.Module):
    """One hidden layer."""

    def __init__(self, inputs: int, width: int = 128, num_classes: int = 10):
        super().__init__()
        self.hidden0 = nn.Linear(inputs, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, H, W] -> logits [B, C]; pixels in the order of Flax, whose kernels are loaded."""
        return self.head(functional.relu(self.hidden0(x.permute(0, 2, 3, 1).flatten(1))))


def torch_name(name: str) -> str:
    """What PyTorch calls a parameter that Flax calls so.

    >>> torch_name("stage0_block0/norm1/scale")
    'stage0_block0.norm1.weight'
    """
    *path, leaf = name.split("/")
    return ".".join([*path, "bias" if leaf == "bias" else "weight"])


def torch_axes(leaf: np.ndarray) -> np.ndarray:
    """Flax's [H, W, inputs, outputs] or [inputs, outputs] -> PyTorch's [outputs, inputs, (H, W)]."""
    return leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T


class Loop:
    """The loop around it, with the handles of `benchmarks.ours.Loop`."""

    def __init__(self, path: str, model: str, batch: int = 128, channels_last: bool = False, dtype: str = "float32"):
        data = images.read(path)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        inputs = torch.from_numpy(np.ascontiguousarray(data.inputs.transpose(0, 3, 1, 2)))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._inputs = inputs.contiguous(memory_format=self._format).to(self._device)
        self._labels = torch.from_numpy(data.labels.astype(np.int64)).to(self._device)
        self._batch, self._number, self._bfloat16 = batch, 0, dtype == "bfloat16"
        if model == "mlp":
            network = MLP(inputs[0].numel())
        else:
            network = ResNet(int(model.removeprefix("resnet")), channels=inputs.shape[1])
        self.network = network.to(self._device, memory_format=self._format)  # pyright: ignore
        self._optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Starts from these parameters (`benchmarks.ours.Loop.weights`)."""
        own = dict(self.network.named_parameters())
        given = {torch_name(name): torch.from_numpy(torch_axes(leaf).copy()) for name, leaf in weights.items()}
        if given.keys() != own.keys():
            raise ValueError(f"weights={sorted(weights)}: must be those of {sorted(own)}")
        with torch.no_grad():
            for name, leaf in given.items():
                own[name].copy_(leaf)

    def weights(self) -> dict[str, np.ndarray]:
        """Parameters by PyTorch's names and axes."""
        return {name: leaf.detach().cpu().numpy().copy() for name, leaf in self.network.named_parameters()}

    def step(self) -> torch.Tensor:
        """The next batch; its mean loss."""
        places = torch.from_numpy(images.batch(self._number, self._batch, len(self._labels))).to(self._device)
        inputs = self._inputs[places].contiguous(memory_format=self._format)
        self._number += 1
        self._optimizer.zero_grad()
        autocast = torch.autocast(self._device.type, torch.bfloat16) if self._bfloat16 else contextlib.nullcontext()
        with autocast:
            loss = functional.cross_entropy(self.network(inputs), self._labels[places])
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def loss(self) -> float:
        """The mean loss of the next batch."""
        return float(self.step())

    def seconds(self, steps: int) -> float:
        """Of one of so many steps; reading the loss waits for them."""
        return seconds_of(self.step, float, steps)
