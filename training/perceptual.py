"""The perceptual term of a tokenizer's loss: distances in the hidden states of a vision model."""

import torch
from torch import nn
from torch.nn import functional as F

from randar_hf.evaluation.extractors import VisionModelFeatures


class PerceptualDistance(nn.Module):
    """LPIPS's distance (arXiv 1801.03924, equation 1) with all weights 1, in any vision model of transformers.

    The hidden states of each layer are normalised at each position, and their squared differences averaged over
    positions and layers. The model is frozen; images are scaled and normalised as its image processor says.

    Args:
        name: folder or Hub name of the model, with its image processor.

    Raises:
        ValueError: there is no such model, or it is none for images.
    """

    def __init__(self, name: str):
        super().__init__()
        try:
            extractor = VisionModelFeatures.from_pretrained(name)
        except ValueError as error:
            raise ValueError(str(error).replace("`features`", "`perceptual_network`", 1)) from error
        self.network = extractor.model
        settings = extractor.processor.to_dict()
        size = settings.get("crop_size") or settings["size"]
        self.size = (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2
        for name, default in (("image_mean", 0.5), ("image_std", 0.5)):
            values = torch.tensor(settings.get(name) or [default] * 3)
            self.register_buffer(name, values.view(3, 1, 1))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances (B,) of images (B, 3, H, W) in [-1, 1], with a gradient to the first ones."""
        states = self._hidden_states(first)
        with torch.no_grad():
            others = self._hidden_states(second)
        distances = [(ours - theirs).square().sum(-1).mean(-1) for ours, theirs in zip(states, others)]  # (B,) each
        return torch.stack(distances).mean(0)

    def _hidden_states(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Of each layer (B, positions, D), of length 1."""
        scaled = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        pixels = ((scaled + 1) / 2 - self.image_mean) / self.image_std
        states = self.network(pixel_values=pixels, output_hidden_states=True).hidden_states
        flat = [state.flatten(2).mT if state.ndim == 4 else state for state in states]
        return [F.normalize(state.float(), dim=-1) for state in flat]
