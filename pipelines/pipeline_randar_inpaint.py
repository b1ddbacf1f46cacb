"""Inpainting and class-conditional editing: parts of a picture are painted anew, given all the rest."""

from collections.abc import Callable

import torch
from diffusers import ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging

from randar_hf.checks import is_finite, is_int
from randar_hf.vq import encode_images

from .base import RandARBasePipeline
from .masks import choose_share, composite, resize, seam_weights, tokens_under
from .pictures import Picture, read_images, read_pictures, spread, to_output


logger = logging.get_logger(__name__)


class RandARInpaintPipeline(RandARBasePipeline):
    """
    Inpainting and class-conditional editing with RandAR (arXiv 2412.01827, Sec. 3.4.1).

    Args:
        transformer ([`RandARForCausalLM`]): predicts image tokens in any order.
        vqvae (`diffusers.VQModel`): turns tokens into images and images into tokens.
        id2label (`dict[int, str]`, *optional*): class names, so that labels can be given by name; names separated by
            commas are synonyms.
    """

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | torch.Tensor,
        image: Picture | list[Picture],
        mask_image: Picture | list[Picture],
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        guidance_power: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        order: str | torch.LongTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        height: int | None = None,
        width: int | None = None,
        strength: float = 1.0,
        seam: int = 0,
        spatial_guidance_scale: float = 1.0,
        spatial_dropout: float = 0.25,
        refine: int = 0,
        refine_share: float = 0.1,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
    ) -> ImagePipelineOutput | tuple:
        """
        Paint the masked parts of pictures anew, given all the rest and a class: their own, or another one.

        A token is painted if the mask covers any of its pixels; all other tokens are read in one pass. Pixels outside
        the mask come back exactly as they were. Settings that are `None` take the value stored with the transformer.

        Args:
            class_labels (`int`, `str`, `list` or `torch.Tensor`): class ids, names, or a mixture, one per result.
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): one picture for all labels, or
                one for each: PIL of any mode, read as RGB; arrays (H, W, 3) or (B, H, W, 3) and tensors (3, H, W) or
                (B, 3, H, W), floating point in [0, 1] or uint8 in 0..255. A picture of another size than the working
                size is resized to it, and what is painted back to the picture's size.
            mask_image (as `image`): one mask for all labels, or one for each, of the picture's size: PIL, read as
                grey; arrays and tensors of one channel, (H, W) or (B, H, W), also with a dimension of 1 for it, that
                may be boolean. What is white, above one half, is painted.
            num_images_per_prompt (`int`): results for each label, next to one another.
            num_inference_steps (`int`, *optional*): decoding steps, from 1 to the number of tokens; an image takes at
                most as many as it has tokens to paint.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are drawn; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this share are drawn, in (0, 1].
            order (`str` or `torch.LongTensor`, *optional*): name of a decoding order, or a permutation of the raster
                places, of shape (N,) or one row per image; tokens that are kept are left out.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            height, width (`int`, *optional*): the working size in pixels, multiples of the pixels of a token; by
                default that of the trained grid.
            strength (`float`): share of the masked tokens that is painted, in (0, 1], at least one; the others, chosen
                at random, stay as they were encoded.
            seam (`int`): pixels, at least 0, over which the old picture turns into the new one, inwards from the edge
                of the mask.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F), at least 0; 1 turns it off.
            spatial_dropout (`float`): share of the drawn tokens that its second sequence lacks, in [0, 1).
            refine (`int`): rounds in which the least likely painted tokens are drawn again; 0 for none.
            refine_share (`float`): share of the painted tokens that a round draws again, in (0, 1].
            output_type (`str`): `"pil"`, `"np"` and `"pt"` for pictures of one size, in float32, or `"latent"` for
                tokens (B, N) in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step; tokens are (B, N), -1 where unknown. It returns a dict, whose `latents` replace the
                tokens. Setting `pipe._interrupt = True` stops; cells not decoded by then are grey.
            callback_on_step_end_tensor_inputs (`list[str]`): what the callback gets, of `["latents"]`.

        Returns:
            `ImagePipelineOutput` or `tuple`: the pictures, in their own sizes. One whose mask is empty comes back as
            it was, with a warning.

        Raises:
            ValueError: for any argument out of its range, before the tokenizer and the model run.
            TypeError: for an image or a mask of another type.
        """
        self.check_inputs(
            num_images_per_prompt,
            output_type,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            refine,
            refine_share,
        )
        check_strength_and_seam(strength, seam)
        grid = self._check_grid(height, width)
        class_ids = self.get_label_ids(class_labels)
        images = read_images(image, len(class_ids))  # (3, H, W) each
        masks = [mask[0] > 0.5 for mask in read_pictures("mask_image", mask_image, 1, len(class_ids))]  # (H, W) each
        self._check_sizes(images, masks, output_type)
        labels = [class_id for class_id in class_ids for _ in range(num_images_per_prompt)]
        self.transformer.check_memory(len(labels), grid[0] * grid[1], argument="the size by `height` and `width`")
        masks = spread(masks, len(labels))
        unknown = torch.stack([tokens_under(mask, grid) for mask in masks])  # (B, N)
        unknown = choose_share(unknown, strength, generator)
        settings = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_schedule": guidance_schedule,
            "guidance_power": guidance_power,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "order": order,
            "generator": generator,
            "grid_size": grid,
            "spatial_guidance_scale": spatial_guidance_scale,
            "spatial_dropout": spatial_dropout,
        }
        self.check_settings(labels, ~unknown, settings)
        warn_of_empty_masks(unknown)
        tokens = torch.zeros_like(unknown, dtype=torch.long)  # (B, N)
        if unknown.any() or output_type == "latent":
            tokens = self._encode(images, grid).repeat_interleave(len(labels) // len(images), dim=0)
        latents = self._draw(
            labels,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            refine if unknown.any() else 0,
            refine_share,
            known_tokens=tokens,
            known_mask=~unknown,
            **settings,
        )
        output = latents
        if output_type != "latent":
            weights = [seam_weights(mask, seam) for mask in masks]  # (H, W) each
            output = to_output(self._paint(latents, grid, spread(images, len(labels)), weights), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=output) if return_dict else (output,)

    def _check_sizes(self, images: list[torch.Tensor], masks: list[torch.Tensor], output_type: str):
        """Raise a `ValueError` for an image smaller than a token, a mask of another size, or results of many sizes."""
        smallest, count = self.image_processor.config.vae_scale_factor, max(len(images), len(masks))
        for image, mask in zip(spread(images, count), spread(masks, count), strict=True):
            height, width = image.shape[1:]
            if min(height, width) < smallest:
                raise ValueError(
                    f"`image` must be at least {smallest} pixels high and wide, one token, got {height} x {width}."
                )
            if mask.shape != (height, width):
                raise ValueError(
                    f"`mask_image` must have the size of its image, {height} x {width} pixels (height x width), "
                    f"got {mask.shape[0]} x {mask.shape[1]}."
                )
        if output_type in ("np", "pt") and len({image.shape for image in images}) > 1:
            raise ValueError(f"`output_type` must be 'pil' or 'latent' for images of many sizes, got {output_type!r}.")

    def _encode(self, images: list[torch.Tensor], grid: tuple[int, int]) -> torch.LongTensor:
        """Tokens (B, N) of images (3, H, W) of any size."""
        factor = self.image_processor.config.vae_scale_factor
        pixels = torch.cat([resize(image[None], (grid[0] * factor, grid[1] * factor)) for image in images])
        return encode_images(self.vqvae, 2 * pixels - 1).flatten(1)

    def _paint(
        self,
        latents: torch.LongTensor,
        grid: tuple[int, int],
        pictures: list[torch.Tensor],
        weights: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """The pictures (3, H, W) with what the tokens (B, N) show, where the weights (H, W) are above 0."""
        if not any(part.any() for part in weights):
            return pictures
        painted = self.image_processor.denormalize(self.decode_latents(latents, *grid).float())  # (B, 3, H, W)
        return [composite(*parts) for parts in zip(pictures, painted, weights, strict=True)]


def check_strength_and_seam(strength: float, seam: int):
    """Raise a `ValueError` for a share outside (0, 1] or a width below 0."""
    if not is_finite(strength) or not 0 < strength <= 1:
        raise ValueError(f"`strength` must lie in (0, 1], got {strength!r}.")
    if not is_int(seam) or seam < 0:
        raise ValueError(f"`seam` must be an int of at least 0, got {seam!r}.")


def warn_of_empty_masks(unknown: torch.BoolTensor):
    """Say which images (B, N) have nothing to paint."""
    empty = (~unknown.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        logger.warning(
            f"`mask_image` is empty for the results {empty} of {len(unknown)}: these pictures come back unchanged."
        )
