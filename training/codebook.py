"""Keeping a codebook in use: entries start as encoder outputs, and entries that nothing chooses start over."""

import torch
from diffusers import VQModel


class CodebookKeeper:
    """Watches the quantiser of a `VQModel` and re-seeds dead entries from recent encoder outputs.

    Random restarts of unused codes: Dhariwal et al. 2020 (Jukebox), section 3.

    Args:
        vqvae: the tokenizer, not wrapped.
    """

    def __init__(self, vqvae: VQModel):
        self.codebook = vqvae.quantize.embedding.weight  # (V, C)
        self.uses = torch.zeros(len(self.codebook), dtype=torch.long, device=self.codebook.device)
        self.latents = None
        vqvae.quantize.register_forward_hook(self._watch)

    def _watch(self, quantizer, inputs, output):
        if not quantizer.training:
            return
        latents = inputs[0].detach()  # (B, C, h, w)
        self.latents = latents.movedim(1, -1).flatten(0, -2).float()  # (B*h*w, C)
        self.uses += torch.bincount(output[2][2].flatten(), minlength=len(self.uses))

    @torch.no_grad()
    def replace_unused(self, accelerator) -> None:
        """Move every entry that no process chose since the last call onto a random recent encoder output."""
        unused = (accelerator.reduce(self.uses) == 0).nonzero().flatten()
        latents = accelerator.gather(self.latents)
        choice = torch.randint(len(latents), (len(unused),)).to(latents.device)
        self.codebook[unused] = latents[choice].to(self.codebook.dtype)
        if accelerator.num_processes > 1:
            torch.distributed.broadcast(self.codebook, src=0)
        self.uses.zero_()


@torch.no_grad()
def seed_codebook(vqvae: VQModel, pixels: torch.Tensor) -> None:
    """Set every codebook entry to an encoder output, plus a little noise where there are too few of them.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
    """
    latents = vqvae.encode(pixels).latents.movedim(1, -1).flatten(0, -2)  # (B*h*w, C)
    size = vqvae.config.num_vq_embeddings
    choice = torch.randperm(len(latents))[:size]
    choice = torch.cat([choice, torch.randint(len(latents), (size - len(choice),))]).to(latents.device)
    noise = 1e-3 * latents.std() * torch.randn(size, latents.shape[1]).to(latents.device)
    vqvae.quantize.embedding.weight.copy_(latents[choice] + noise)
