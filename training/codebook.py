"""Keeping a codebook in use: entries start as encoder outputs, and entries that nothing chooses start over."""

import torch
from accelerate import Accelerator
from diffusers import VQModel


class CodebookKeeper:
    """Watches the quantiser of a `VQModel` and re-seeds dead entries from recent encoder outputs.

    Random restarts of unused codes: Dhariwal et al. 2020 (Jukebox), section 3.

    Args:
        vqvae: the tokenizer, not wrapped.
    """

    def __init__(self, vqvae: VQModel):
        self.codebook = vqvae.quantize.embedding.weight  # (V, C)
        self.used = torch.zeros(len(self.codebook), dtype=torch.bool, device=self.codebook.device)  # (V,)
        self.latents = None
        vqvae.quantize.register_forward_hook(self._watch)

    def state_dict(self) -> dict:
        """What a checkpoint has to hold: the entries that were chosen since entries were last replaced."""
        return {"used": self.used}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` gave."""
        self.used.copy_(state["used"])

    def _watch(self, quantizer, inputs, output):
        if not quantizer.training:
            return
        latents = inputs[0].detach()  # (B, C, h, w)
        self.latents = latents.movedim(1, -1).flatten(0, -2).float()  # (B*h*w, C)
        self.used[output[2][2].flatten()] = True

    def share_used(self, accelerator: Accelerator) -> None:
        """Let every process know the entries that any of them chose."""
        self.used = accelerator.reduce(self.used.long()) > 0

    @torch.no_grad()
    def replace_unused(self, accelerator: Accelerator, generator: torch.Generator) -> None:
        """Move every entry that no process chose since the last call onto a random recent encoder output.

        Args:
            accelerator: of the run.
            generator: on the CPU; the same one on all processes.
        """
        self.share_used(accelerator)
        unused = (~self.used).nonzero().flatten()
        latents = accelerator.gather(self.latents)
        choice = torch.randint(len(latents), (len(unused),), generator=generator).to(latents.device)
        self.codebook[unused] = latents[choice].to(self.codebook.dtype)
        self.used.zero_()


@torch.no_grad()
def seed_codebook(vqvae: VQModel, pixels: torch.Tensor, accelerator: Accelerator, generator: torch.Generator) -> None:
    """Set every codebook entry to an encoder output, plus a little noise where there are too few of them.

    Args:
        vqvae: the tokenizer, not wrapped.
        pixels: (B, 3, H, W) in [-1, 1], of this process.
        accelerator: of the run; outputs of all processes are taken.
        generator: on the CPU; the same one on all processes.
    """
    latents = vqvae.encode(pixels).latents.movedim(1, -1).flatten(0, -2)  # (B*h*w, C)
    latents = accelerator.gather(latents)
    size = vqvae.config.num_vq_embeddings
    choice = torch.randperm(len(latents), generator=generator)[:size]
    again = torch.randint(len(latents), (size - len(choice),), generator=generator)
    choice = torch.cat([choice, again]).to(latents.device)
    noise = torch.randn(size, latents.shape[1], generator=generator).to(latents.device)
    vqvae.quantize.embedding.weight.copy_(latents[choice] + 1e-3 * latents.std() * noise)
