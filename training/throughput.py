"""How fast a run is: images and tokens per second, and the fraction of the device's peak that they use."""

import time

import torch
from torch import nn

from randar_hf.layout import training_layout


# Dense peak of bfloat16 and float16 in FLOP per second, by a part of the name that CUDA gives the device.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
}


def device_peak(device: torch.device, mixed_precision: str) -> float | None:
    """Peak of one device in FLOP per second; None for a CPU, an unknown GPU or full precision."""
    if device.type != "cuda" or mixed_precision == "no":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ")
    return next((peak for name, peak in PEAKS.items() if f" {name} " in f" {words} "), None)


def flops_per_image(model) -> float:
    """FLOP of forward and backward pass for one image.

    Each slot costs 6 for each parameter of the layers, and 12 times width times slots in each layer for attention,
    counted as if it were not causal; each token costs 6 for each parameter of the head. A frozen parameter costs 4, as
    it gets no gradient. What activation checkpointing computes twice counts once.
    """
    config = model.config
    slots = training_layout(config.num_tokens, model.model.form, "cpu").carried.shape[1]
    attention = 12 * config.num_hidden_layers * config.hidden_size * slots
    return slots * (_flops(model.model.layers) + attention) + config.num_tokens * _flops(model.lm_head)


def _flops(module: nn.Module) -> int:
    """FLOP of the products for one row of input: the output, its gradient and, where it is wanted, the weights'."""
    return sum((6 if parameter.requires_grad else 4) * parameter.numel() for parameter in module.parameters())


class Throughput:
    """A stop-watch that counts images between two log lines, on the host alone.

    Args:
        tokens: of one image.
        flops: of one image.
        peak: of all devices together, if it is known.
    """

    def __init__(self, tokens: int, flops: float, peak: float | None):
        self.tokens, self.flops, self.peak = tokens, flops, peak
        self.images, self.seconds, self.started = 0, 0.0, None

    def run(self) -> None:
        """Start the watch, or let it go on."""
        self.started = time.perf_counter()

    def pause(self) -> None:
        """Stop the watch for something that is no training."""
        self.seconds += time.perf_counter() - self.started

    def read(self) -> dict:
        """The rates since the watch was read last; it goes on from 0."""
        self.pause()
        rate = self.images / self.seconds
        self.images, self.seconds = 0, 0.0
        self.run()
        utilization = {"mfu": rate * self.flops / self.peak} if self.peak else {}
        return {"images_per_second": rate, "tokens_per_second": rate * self.tokens, **utilization}
