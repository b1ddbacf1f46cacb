"""Outpainting: images grow beyond their edges."""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from transformers import CompileConfig

from .base import RandARBasePipeline
from .canvas import make_canvas, plan_windows, slide
from .image_tensors import ImageInput, read_images, repeat_each
from .keywords import explain_keywords


ATTENTIONS = ("full", "sliding_window")


class RandAROutpaintPipeline(RandARBasePipeline):
    """
    Outpainting with RandAR (arXiv 2412.01827, Sec. 3.4.2): images are extended to any side.

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
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        attention: str = "full",
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
        Extend images beyond their edges, given a class.

        The images' own pixels come back exactly as they were. Settings that are `None` take the value stored with
        the transformer.

        Args:
            class_labels (`int`, `str`, `list` or `torch.Tensor`): class ids, names, or a mixture, one per result.
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): one image for all labels, or
                one for each, all of one size, whose sides are multiples of the pixels of a token: PIL of any mode,
                read as RGB; arrays (H, W, 3) or (B, H, W, 3) and tensors (3, H, W) or (B, 3, H, W), floating point in
                [0, 1] or uint8 in 0..255.
            left, right, top, bottom (`int`): pixels to add at each side, multiples of the pixels of a token, not all
                of them 0.
            attention (`str`): `"full"`, all tokens of the canvas in one sequence, whose positions count from the upper
                left corner of the canvas and go beyond the trained ones; or, for comparison, `"sliding_window"`:
                windows of the trained grid in steps of half their size, each of which knows only what lies within.
            num_images_per_prompt (`int`): results for each label, next to one another.
            num_inference_steps (`int`, *optional*): decoding steps, from 1 to the number of tokens, of the canvas or
                of each window; at most as many are taken as there are tokens to paint.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are sampled; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this fraction are sampled, in (0, 1].
            order (`str` or `torch.LongTensor`, *optional*): name of a decoding order, or a permutation of the raster
                positions, of the canvas or of a window: of shape (N,) or one row per image; known positions are
                skipped.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            speculative_window (`int`, *optional*): lossless decoding, the tokens of one step a token in fewer passes,
                each of which asks for so many tokens; instead of `num_inference_steps`.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F), at least 0; 1 turns it off.
            spatial_dropout (`float`): fraction of the sampled tokens that its second sequence drops, in [0, 1).
            refine (`int`): rounds in which the least likely new tokens are sampled again; 0 for none. Only with full
                attention.
            refine_share (`float`): fraction of the new tokens that a round samples again, in (0, 1].
            output_type (`str`): `"pil"`, `"np"` and `"pt"` in float32, or `"latent"` for tokens (B, N) of the canvas
                in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step of all windows; tokens are those of the canvas, (B, N), -1 where unknown. It returns a
                dict, whose `latents` replace the tokens. Setting `pipe._interrupt = True` stops; cells not decoded by
                then are grey.
            callback_on_step_end_tensor_inputs (`list[str]`): what the callback gets, of `["latents"]`.
            compile_config (`CompileConfig`, *optional*): of transformers; compiles the passes of decoding.

        Returns:
            `ImagePipelineOutput` or `tuple`: images of the size of the canvas.

        Raises:
            ValueError: for any argument out of its range, before the tokenizer and the model run.
            TypeError: for an image of another type.
        """
        self.check_inputs(
            num_images_per_prompt,
            output_type,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            refine,
            refine_share,
        )
        check_attention(attention, refine)
        labels = self.encode_labels(class_labels, num_images_per_prompt, generator)
        images = read_images(image, len(labels) // num_images_per_prompt)  # (3, H, W) each
        multiple = self.image_processor.config.vae_scale_factor
        canvas = make_canvas(images, multiple, left=left, right=right, top=top, bottom=bottom)
        num_tokens = canvas.grid[0] * canvas.grid[1]
        if attention == "full":
            self.transformer.check_memory(
                len(labels), num_tokens, argument="the size by `left`, `right`, `top`, `bottom`"
            )
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
        size = canvas.grid if attention == "full" else self.transformer.config.grid
        windows = plan_windows(canvas.known(), size)
        plans = [
            self.transformer.plan_generation(
                labels, window.known.flatten().expand(len(labels), -1), tuple(window.known.shape), **settings
            )
            for window in windows
        ]
        self.announce(*plans)
        tokens = canvas.extend(self.encode_images(torch.stack(images)), -1)  # (1 or B', h, w)
        tokens = tokens.repeat_interleave(len(labels) // len(images), dim=0)  # (B, h, w)
        states = slide(windows, plans, tokens, partial(self.transformer.decode, generator=generator))
        latents = self.decode(states, callback_on_step_end, callback_on_step_end_tensor_inputs)
        latents = self.refine(latents, plans[0], refine, refine_share, generator)
        images = [canvas.in_pixels(multiple).extend(image, 0) for image in images]  # (3, H, W) each
        weights = 1 - canvas.in_pixels(multiple).known().float()  # (H, W)
        images = repeat_each(images, len(labels) // len(images))
        return self.postprocess(latents, canvas.grid, output_type, return_dict, images, [weights] * len(labels))


def check_attention(attention: str, refine: int):
    """Raise a `ValueError` for an unknown kind, or one that refinement is not made for."""
    if attention not in ATTENTIONS:
        raise ValueError(f"`attention` must be one of {', '.join(ATTENTIONS)}, got {attention!r}.")
    if refine and attention != "full":
        raise ValueError(f"`refine` must be 0 unless `attention` is 'full', got {refine} and {attention!r}.")
