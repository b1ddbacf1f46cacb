"""How well a tokenizer reproduces images it was not trained on."""

import torch
from accelerate import Accelerator
from diffusers import VQModel
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from randar_hf.vq import decode, encode


SHOWN = 8  # images
WINDOW, DEVIATION = 11, 1.5  # pixels; of SSIM's Gaussian


@torch.no_grad()
def evaluate_tokenizer(
    accelerator: Accelerator, model: VQModel, loader, perceptual: nn.Module | None = None, weight: float = 1.0
) -> dict:
    """Means over the images of a prepared loader, and the number of codebook entries they use.

    Returns:
        `{"validation_loss": absolute plus squared error and `weight` of the perceptual distance, "psnr": dB, "ssim":
        at most 1, "used_codes": entries}`.
    """
    model.eval()
    vqvae = accelerator.unwrap_model(model)
    rows, used = [], torch.zeros(vqvae.config.num_vq_embeddings, dtype=torch.long, device=accelerator.device)
    for batch in loader:
        pixels = batch["pixels"]
        tokens = encode(vqvae, pixels)  # (B, h, w)
        restored = decode(vqvae, tokens).float()  # (B, 3, H, W)
        difference = restored - pixels
        loss = (difference.abs() + difference.square()).mean((1, 2, 3))  # (B,)
        if perceptual is not None:
            loss = loss + weight * perceptual(restored, pixels)
        error = F.mse_loss(restored.clamp(-1, 1), pixels, reduction="none").mean((1, 2, 3))  # (B,)
        psnr = 10 * torch.log10(4 / error.clamp(min=1e-12))  # pixels span 2, so the peak's square is 4
        row = torch.stack([loss, psnr, structural_similarity(restored.clamp(-1, 1), pixels)], dim=1)  # (B, 3)
        rows.append(accelerator.gather_for_metrics(row))
        used += torch.bincount(tokens.flatten(), minlength=len(used))
    means = dict(zip(("validation_loss", "psnr", "ssim"), torch.cat(rows).double().mean(0).tolist()))
    return {**means, "used_codes": int((accelerator.reduce(used) > 0).sum())}


def structural_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """SSIM (Wang et al. 2004, equation 13) of images (B, 3, H, W) in [-1, 1], the mean over colours and windows; (B,).

    Windows lie within the image and are Gaussian, 11 pixels wide or as wide as the image's shorter side.
    """
    first, second = (first + 1) / 2, (second + 1) / 2
    width = min(WINDOW, *first.shape[-2:])
    across = torch.arange(width, device=first.device) - (width - 1) / 2
    weights = torch.exp(-(across**2) / (2 * DEVIATION**2))
    weights = torch.outer(weights, weights) / weights.sum() ** 2  # (W, W)
    kernel = weights.expand(3, 1, width, width)

    def blur(images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, kernel, groups=3)

    means = blur(first), blur(second)
    variances = (blur(image**2) - mean**2 for image, mean in zip((first, second), means))
    covariance = blur(first * second) - means[0] * means[1]
    c1, c2 = 0.01**2, 0.03**2
    product = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    similarity = product / ((means[0] ** 2 + means[1] ** 2 + c1) * (sum(variances) + c2))
    return similarity.mean((1, 2, 3))


@torch.no_grad()
def draw_reconstructions(vqvae: VQModel, images: Dataset) -> Image.Image:
    """The first images of a data set, and below each what the tokenizer makes of it."""
    rows = [images[index]["pixels"] for index in range(min(SHOWN, len(images)))]
    pixels = torch.stack(rows).to(vqvae.device)  # (n, 3, H, W)
    restored = decode(vqvae, encode(vqvae, pixels)).float().clamp(-1, 1)
    rows = torch.stack([pixels, restored])  # (2, n, 3, H, W)
    sheet = ((rows + 1) * 127.5).round().byte().permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (2H, nW, 3)
    return Image.fromarray(sheet.cpu().numpy())


__all__ = ["draw_reconstructions", "evaluate_tokenizer", "structural_similarity"]
