"""The adversarial term of a tokenizer's loss: patches of images against those of reconstructions.

As in VQGAN (arXiv 2012.09841, equations 6 and 7) and LlamaGen (arXiv 2406.06525): hinge loss, adaptive weight, and a
late start.
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from .optimization import NonFiniteGuard, make_optimizer
from .sharding import whole_tensor


WIDTH = 64  # channels of the first layer, as published
LARGEST_WEIGHT = 1e4  # of the adaptive weight, as published


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (arXiv 1611.07004): a logit for each patch, above 0 for one of a real image.

    Args:
        layers: convolutions that halve the image; with 3, as published, a patch is 70 pixels wide.
    """

    def __init__(self, layers: int):
        blocks = [nn.Conv2d(3, WIDTH, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = WIDTH
        for layer in range(1, layers + 1):
            former, width, stride = width, WIDTH * min(2**layer, 8), 2 if layer < layers else 1
            blocks += [nn.Conv2d(former, width, 4, stride, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        super().__init__(*blocks, nn.Conv2d(width, 1, 4, 1, 1))
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)


class Adversary:
    """A discriminator and its optimizer, both prepared; part of each checkpoint that the accelerator saves.

    Args:
        accelerator: of the run.
        config: `discriminator_layers`, `discriminator_weight`, `learning_rate` and `max_grad_norm` of the run.
    """

    def __init__(self, accelerator: Accelerator, config):
        self.accelerator, self.config = accelerator, config
        model = PatchDiscriminator(config.discriminator_layers)
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, config.learning_rate, 0.0))
        self.guard = NonFiniteGuard(self.optimizer.optimizer, accelerator.device)

    def generator_loss(self, restored: torch.Tensor, error: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """How little reconstructions (B, 3, H, W) pass for images, times the adaptive weight of equation 7.

        Args:
            restored: the reconstructions.
            error: what else the decoder is trained on.
            last: weights of the decoder's last layer, at which the gradients of both are compared.
        """
        loss = -self.accelerator.unwrap_model(self.model)(restored).mean()
        ours, theirs = (torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (error, loss))
        weight = (ours / (theirs + 1e-4)).clamp(0, LARGEST_WEIGHT).detach()
        return self.config.discriminator_weight * weight * loss

    def learn(self, pixels: torch.Tensor, restored: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """One step on images and their reconstructions, both (B, 3, H, W); the hinge loss before it."""
        self.optimizer.zero_grad()  # of what the tokenizer's step left
        real, fake = self.model(torch.cat([pixels, restored.detach()])).chunk(2)
        loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.guard.check(whole_tensor(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()
