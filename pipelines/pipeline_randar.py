"""Class-conditional generation in any order."""

from collections.abc import Callable

import torch
from diffusers import ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from transformers import CompileConfig

from .base import RandARBasePipeline
from .keywords import explain_keywords


class RandARPipeline(RandARBasePipeline):
    """
    Class-conditional image generation with RandAR (arXiv 2412.01827).

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
        Generate images of the given classes.

        Settings that are `None` take the value stored with the transformer, `transformer.generation_config`.

        Args:
            class_labels (`int`, `str`, `list` or `torch.Tensor`): class ids, names, or a mixture, one per image.
            num_images_per_prompt (`int`): images for each label.
            num_inference_steps (`int`, *optional*): decoding steps, from 1 to the number of tokens.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are sampled; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this fraction are sampled, in (0, 1].
            order (`str` or `torch.LongTensor`, *optional*): name of a decoding order, or a permutation of the raster
                positions, of shape (N,) or one row per image.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            speculative_window (`int`, *optional*): lossless decoding, the tokens of one step a token in fewer passes,
                each of which asks for so many tokens; instead of `num_inference_steps`.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F), at least 0; 1 turns it off.
            spatial_dropout (`float`): fraction of the sampled tokens that its second sequence drops, in [0, 1).
            refine (`int`): rounds in which the least likely tokens are sampled again, given the others; 0 for none.
            refine_share (`float`): fraction of the tokens that a round samples again, in (0, 1].
            output_type (`str`): `"pil"`, `"np"`, `"pt"`, or `"latent"` for tokens (B, N) in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step; tokens are (B, N), -1 where unknown. It returns a dict, whose `latents` replace the
                tokens. Setting `pipe._interrupt = True` stops; cells not decoded by then are grey.
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
        labels = self.encode_labels(class_labels, num_images_per_prompt, generator)
        plan = self.transformer.plan_generation(
            labels,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            guidance_power=guidance_power,
            spatial_guidance_scale=spatial_guidance_scale,
            spatial_dropout=spatial_dropout,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            speculative_window=speculative_window,
            compile_config=compile_config,
            order=order,
        )
        self.announce(plan)
        states = self.transformer.decode(plan, generator=generator)
        latents = self.decode(states, callback_on_step_end, callback_on_step_end_tensor_inputs)
        latents = self.refine(latents, plan, refine, refine_share, generator)
        return self.postprocess(latents, plan.grid, output_type, return_dict)
