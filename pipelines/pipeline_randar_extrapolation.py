"""Images of more pixels than the model was trained for."""

from collections.abc import Callable

import torch
from diffusers import ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from transformers import CompileConfig

from randar_hf.checks import check_int
from randar_hf.extrapolation import num_fitting_frequencies
from randar_hf.orders import ORDER_NAMES

from .base import RandARBasePipeline
from .keywords import explain_keywords
from .stages import plan_stages


DROPOUT_TOKENS = ("all", "coarse")


class RandARExtrapolationPipeline(RandARBasePipeline):
    """
    Class-conditional images at a resolution above the trained one, without training (arXiv 2412.01827, Sec. 3.4.3).

    Args:
        transformer ([`RandARForCausalLM`]): predicts image tokens in any order.
        vqvae (`diffusers.VQModel`): turns tokens into images.
        id2label (`dict[int, str]`, *optional*): class names, so that labels can be given by name; names separated by
            commas are synonyms.
    """

    @explain_keywords
    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | torch.Tensor,
        height: int | None = None,
        width: int | None = None,
        hierarchical: bool = True,
        num_extrapolated: int | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        guidance_power: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        order: str | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        speculative_window: int | None = None,
        spatial_guidance_scale: float = 2.5,
        spatial_dropout: float = 0.25,
        spatial_dropout_tokens: str = "all",
        refine: int = 0,
        refine_share: float = 0.1,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
        compile_config: CompileConfig | None = None,
    ) -> ImagePipelineOutput | tuple:
        """
        Generate images of the given classes on a grid finer than the trained one.

        First the coarse tokens are generated as at the trained resolution: at the even coordinates for twice the size.
        Then they are read again on the finer grid, whose positions are interpolated but for the highest frequencies,
        and the other cells are filled in. For a factor that is not whole, coarse tokens lie between the cells: they
        are context and no part of the image. Settings that are `None` take the value stored with the transformer.

        Args:
            class_labels (`int`, `str`, `list` or `torch.Tensor`): class ids, names, or a mixture, one per image.
            height, width (`int`, *optional*): size in pixels, multiples of the pixels of a token and at least the
                trained size; twice that by default. The side that grows less sets the factor; along the other one the
                image also shows more than a trained one would.
            hierarchical (`bool`): coarse tokens first; otherwise all cells in one go, for comparison.
            num_extrapolated (`int`, *optional*): so many of the highest rotary frequencies keep the distance of
                neighbours instead of being interpolated; by default those that turn at least one and a third times
                within the trained grid, 2 of 16 in the published models and none in the shipped one.
            num_images_per_prompt (`int`): images for each label.
            num_inference_steps (`int`, *optional*): steps for the coarse tokens; the others take as many for each.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are sampled; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this fraction are sampled, in (0, 1].
            order (`str`, *optional*): name of a decoding order, taken within the coarse grid and within the finer one.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            speculative_window (`int`, *optional*): lossless decoding, the tokens of one step a token in fewer passes,
                each of which asks for so many tokens; instead of `num_inference_steps`.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F) while the finer cells are filled, at
                least 0; 1 turns it off. The coarse tokens are generated without.
            spatial_dropout (`float`): fraction of the tokens that its second sequence drops, in [0, 1).
            spatial_dropout_tokens (`str`): `"all"`, each token by chance; `"coarse"`, exactly this fraction of the
                coarse tokens and no other, as in the authors' program, where it is 0.5.
            refine (`int`): rounds in which the least likely tokens are sampled again, given the others; 0 for none.
            refine_share (`float`): fraction of the tokens that a round samples again, in (0, 1].
            output_type (`str`): `"pil"`, `"np"`, `"pt"`, or `"latent"` for tokens (B, N) in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step; tokens are (B, N) of the finer grid, -1 where unknown; changing them changes nothing.
                Setting `pipe._interrupt = True` stops.
            callback_on_step_end_tensor_inputs (`list[str]`): what the callback gets, of `["latents"]`.
            compile_config (`CompileConfig`, *optional*): of transformers; compiles the passes of decoding.

        Returns:
            `ImagePipelineOutput` or `tuple`: the images.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        self.check_inputs(
            num_images_per_prompt,
            output_type,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            refine,
            refine_share,
        )
        check_choices(order, num_extrapolated, spatial_dropout_tokens)
        labels = self.encode_labels(class_labels, num_images_per_prompt, generator)
        grid = self.check_grid(height, width, default_factor=2)
        self.transformer.check_memory(len(labels), grid[0] * grid[1], argument="the size by `height` and `width`")
        if num_extrapolated is None:
            config = self.transformer.config
            num_extrapolated = num_fitting_frequencies(min(config.grid), config.head_dim, config.rope_theta)
        settings = {
            "guidance_scale": guidance_scale,
            "guidance_schedule": guidance_schedule,
            "guidance_power": guidance_power,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "speculative_window": speculative_window,
            "compile_config": compile_config,
        }
        stages = plan_stages(
            self.transformer,
            labels,
            grid,
            num_extrapolated,
            spatial_dropout_tokens,
            order,
            num_inference_steps,
            {"spatial_guidance_scale": spatial_guidance_scale, "spatial_dropout": spatial_dropout},
            settings,
        )
        self.announce(*((stages.coarse, stages.fine) if hierarchical else (stages.cells,)))
        states = stages.decode(self.transformer, hierarchical, generator)
        latents = self.decode(states, callback_on_step_end, callback_on_step_end_tensor_inputs)
        latents = self.refine(latents, stages.cells, refine, refine_share, generator)
        return self.postprocess(latents, grid, output_type, return_dict)


def check_choices(order: str | None, num_extrapolated: int | None, spatial_dropout_tokens: str):
    """Raise a `ValueError` for an order that has no name, a negative count, or an unknown kind of dropout."""
    if order is not None and order not in ORDER_NAMES:
        raise ValueError(f"`order` must be the name of an order, one of {', '.join(ORDER_NAMES)}, got {order!r}.")
    if num_extrapolated is not None:
        check_int("num_extrapolated", num_extrapolated, 0)
    if spatial_dropout_tokens not in DROPOUT_TOKENS:
        raise ValueError(
            f"`spatial_dropout_tokens` must be one of {', '.join(DROPOUT_TOKENS)}, got {spatial_dropout_tokens!r}."
        )
