"""Inpainting and class-conditional editing: parts of an image are painted anew, given all the rest."""

from collections.abc import Callable

import torch
from diffusers import ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging
from transformers import CompileConfig

from randar_hf.checks import check_int, check_number

from .base import RandARBasePipeline
from .image_tensors import ImageInput, read_images, read_stack, repeat_each
from .keywords import explain_keywords
from .masks import choose_fraction, resize, seam_weights, tokens_under


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

    @explain_keywords
    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | torch.Tensor,
        image: ImageInput | list[ImageInput],
        mask_image: ImageInput | list[ImageInput],
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        guidance_power: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        order: str | torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        speculative_window: int | None = None,
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
        compile_config: CompileConfig | None = None,
    ) -> ImagePipelineOutput | tuple:
        """
        Paint the masked parts of images anew, given all the rest and a class: their own, or another one.

        A token is painted if the mask covers any of its pixels; all other tokens are read in one pass. Pixels outside
        the mask come back exactly as they were. Settings that are `None` take the value stored with the transformer.

        Args:
            class_labels (`int`, `str`, `list` or `torch.Tensor`): class ids, names, or a mixture, one per result.
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): one image for all labels, or
                one for each: PIL of any mode, read as RGB; arrays (H, W, 3) or (B, H, W, 3) and tensors (3, H, W) or
                (B, 3, H, W), floating point in [0, 1] or uint8 in 0..255. An image of another size than the working
                size is resized to it, and what is painted back to the image's size.
            mask_image (as `image`): one mask for all labels, or one for each, of the image's size: PIL, read as
                grey; arrays and tensors of one channel, (H, W) or (B, H, W), also with a dimension of 1 for it, that
                may be boolean. What is white, above one half, is painted.
            num_images_per_prompt (`int`): results for each label, next to one another.
            num_inference_steps (`int`, *optional*): decoding steps, from 1 to the number of tokens; an image takes at
                most as many as it has tokens to paint.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are sampled; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this fraction are sampled, in (0, 1].
            order (`str` or `torch.LongTensor`, *optional*): name of a decoding order, or a permutation of the raster
                positions, of shape (N,) or one row per image; tokens that are kept are skipped.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            speculative_window (`int`, *optional*): lossless decoding, the tokens of one step a token in fewer passes,
                each of which asks for so many tokens; instead of `num_inference_steps`.
            height, width (`int`, *optional*): the working size in pixels, multiples of the pixels of a token; by
                default that of the trained grid.
            strength (`float`): fraction of the masked tokens that is painted, in (0, 1], at least one; the others,
                chosen at random, stay as they were encoded.
            seam (`int`): pixels, at least 0, over which the old image turns into the new one, inwards from the edge
                of the mask.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F), at least 0; 1 turns it off.
            spatial_dropout (`float`): fraction of the sampled tokens that its second sequence drops, in [0, 1).
            refine (`int`): rounds in which the least likely painted tokens are sampled again; 0 for none.
            refine_share (`float`): fraction of the painted tokens that a round samples again, in (0, 1].
            output_type (`str`): `"pil"`, `"np"` and `"pt"` for images of one size, in float32, or `"latent"` for
                tokens (B, N) in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step; tokens are (B, N), -1 where unknown. It returns a dict, whose `latents` replace the
                tokens. Setting `pipe._interrupt = True` stops; cells not decoded by then are grey.
            callback_on_step_end_tensor_inputs (`list[str]`): what the callback gets, of `["latents"]`.
            compile_config (`CompileConfig`, *optional*): of transformers; compiles the passes of decoding.

        Returns:
            `ImagePipelineOutput` or `tuple`: the images, in their own sizes. One whose mask is empty comes back as
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
        check_number("strength", strength, "(0, 1]")
        check_int("seam", seam, 0)
        grid = self.check_grid(height, width)
        labels = self.encode_labels(class_labels, num_images_per_prompt, generator)
        images, masks = self.read_inputs(image, mask_image, len(labels) // num_images_per_prompt, output_type)
        self.transformer.check_memory(len(labels), grid[0] * grid[1], argument="the size by `height` and `width`")
        masks = repeat_each(masks, len(labels) // len(masks))
        masked = torch.stack([tokens_under(mask, grid) for mask in masks])  # (B, N)
        settings = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_schedule": guidance_schedule,
            "guidance_power": guidance_power,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "speculative_window": speculative_window,
            "compile_config": compile_config,
            "order": order,
            "spatial_guidance_scale": spatial_guidance_scale,
            "spatial_dropout": spatial_dropout,
        }
        plan = self.transformer.plan_generation(labels, ~masked, grid, **settings)
        if strength < 1:
            chosen = choose_fraction(masked, strength, generator)
            plan = self.transformer.plan_generation(labels, ~chosen, grid, **settings)
        warn_of_empty_masks(masked)
        self.announce(plan)
        tokens = torch.zeros_like(masked, dtype=torch.long)  # (B, N)
        if masked.any() or output_type == "latent":
            factor = self.image_processor.config.vae_scale_factor
            pixels = torch.cat([resize(image[None], (grid[0] * factor, grid[1] * factor)) for image in images])
            tokens = self.encode_images(pixels).flatten(1).repeat_interleave(len(labels) // len(images), dim=0)
        states = self.transformer.decode(plan, tokens, generator)
        latents = self.decode(states, callback_on_step_end, callback_on_step_end_tensor_inputs)
        latents = self.refine(latents, plan, refine if masked.any() else 0, refine_share, generator)
        images = repeat_each(images, len(labels) // len(images))
        weights = [seam_weights(mask, seam) for mask in masks]  # (H, W) each
        return self.postprocess(latents, grid, output_type, return_dict, images, weights)

    def read_inputs(
        self, image: ImageInput | list[ImageInput], mask_image: ImageInput | list[ImageInput], count: int, output: str
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Images (3, H, W) in [0, 1] and boolean masks (H, W), one or `count` of each, that go together."""
        images = read_images(image, count)
        masks = [mask[0] > 0.5 for mask in read_stack("mask_image", mask_image, 1, count)]
        smallest, most = self.image_processor.config.vae_scale_factor, max(len(images), len(masks))
        pairs = zip(repeat_each(images, most // len(images)), repeat_each(masks, most // len(masks)), strict=True)
        for pixels, mask in pairs:
            height, width = pixels.shape[1:]
            if min(height, width) < smallest:
                raise ValueError(
                    f"`image` must be at least {smallest} pixels high and wide, one token, got {height} x {width}."
                )
            if mask.shape != (height, width):
                raise ValueError(
                    f"`mask_image` must have the size of its image, {height} x {width} pixels (height x width), "
                    f"got {mask.shape[0]} x {mask.shape[1]}."
                )
        if output in ("np", "pt") and len({image.shape for image in images}) > 1:
            raise ValueError(f"`output_type` must be 'pil' or 'latent' for images of many sizes, got {output!r}.")
        return images, masks


def warn_of_empty_masks(masked: torch.Tensor):
    """Say which images (B, N) have nothing to paint."""
    empty = (~masked.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        logger.warning(
            f"`mask_image` is empty for the results {empty} of {len(masked)}: these images come back unchanged."
        )
