"""Class-conditional generation in any order."""

from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, VQModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor

from randar_hf.checks import is_int
from randar_hf.modeling_randar import RandARForCausalLM
from randar_hf.vq import decode_images, downsampling

from .hub import HubMixin
from .labels import find_label_id, list_labels


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class RandARPipeline(HubMixin, DiffusionPipeline):
    """
    Class-conditional image generation with RandAR (arXiv 2412.01827).

    Args:
        transformer ([`RandARForCausalLM`]): predicts image tokens in any order.
        vqvae (`diffusers.VQModel`): turns tokens into images.
        id2label (`dict[int, str]`, *optional*): class names, so that labels can be given by name; names separated by
            commas are synonyms.
    """

    model_cpu_offload_seq = "transformer->vqvae"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        transformer: RandARForCausalLM,
        vqvae: VQModel,
        id2label: dict[int, str] | dict[str, str] | None = None,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, vqvae=vqvae)
        self.register_to_config(id2label=id2label)
        self.image_processor = VaeImageProcessor(vae_scale_factor=downsampling(vqvae), do_convert_rgb=True)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by class id; empty if the pipeline has none."""
        return {int(class_id): name for class_id, name in (self.config.id2label or {}).items()}

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the call in progress; a callback may change `_guidance_scale` for the steps to come."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Decoding steps of the latest call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked to stop, by setting `_interrupt`."""
        return self._interrupt

    def get_label_ids(self, class_labels: int | str | list[int | str] | torch.Tensor) -> list[int]:
        """
        Class ids for ids, names, or a mixture of both.

        Raises a `ValueError` for an unknown name, with the names nearest to it, and for no label at all.
        """
        id2label = self.id2label
        ids = [find_label_id(label, id2label) for label in list_labels(class_labels)]
        if not ids:
            raise ValueError("`class_labels` must hold at least one class id or name, got none.")
        return ids

    def check_components(self):
        """Raise a `ValueError` if the tokenizer has another number of tokens than the transformer."""
        entries, vocab_size = self.vqvae.config.num_vq_embeddings, self.transformer.config.vocab_size
        if entries != vocab_size:
            raise ValueError(f"`vqvae` must have the transformer's {vocab_size} tokens, got one with {entries}.")

    def check_inputs(
        self,
        num_images_per_prompt: int,
        output_type: str,
        callback_on_step_end: Callable | None,
        callback_on_step_end_tensor_inputs: list[str],
    ):
        """Check the components against each other, and the arguments that the transformer does not check itself."""
        self.check_components()
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise ValueError(f"`callback_on_step_end` must be callable, got {callback_on_step_end!r}.")
        if not is_int(num_images_per_prompt) or num_images_per_prompt < 1:
            raise ValueError(f"`num_images_per_prompt` must be an int of at least 1, got {num_images_per_prompt!r}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        if not set(callback_on_step_end_tensor_inputs) <= set(self._callback_tensor_inputs):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be among {self._callback_tensor_inputs}, "
                f"got {callback_on_step_end_tensor_inputs}."
            )

    def decode_latents(self, latents: torch.LongTensor, height: int, width: int) -> torch.Tensor:
        """
        Images of token grids; cells that are not decoded yet are grey.

        Args:
            latents (`torch.LongTensor` of shape (B, height * width)): tokens in raster order, -1 where unknown.
            height, width (`int`): rows and columns of the grid.

        Returns:
            `torch.Tensor` of shape (B, 3, H, W), in [-1, 1] up to over-shoots of the tokenizer.
        """
        tokens = latents.unflatten(1, (height, width))  # (B, h, w)
        pixels = decode_images(self.vqvae, tokens.clamp(min=0))  # (B, 3, H, W)
        unknown = (tokens < 0)[:, None].float()  # (B, 1, h, w)
        unknown = torch.nn.functional.interpolate(unknown, size=pixels.shape[2:], mode="nearest")
        return pixels.masked_fill(unknown.bool().to(pixels.device), 0)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | torch.Tensor,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        order: str | torch.LongTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
    ) -> ImagePipelineOutput | tuple:
        """
        Generate images of the given classes.

        Settings that are `None` take the value stored with the transformer, `transformer.generation_config`.

        Args:
            class_labels (`int`, `str`, `list` or `torch.Tensor`): class ids, names, or a mixture, one per image.
            num_images_per_prompt (`int`): images for each label.
            num_inference_steps (`int`, *optional*): decoding steps, from 1 to the number of tokens.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale) or `"constant"`.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are drawn; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this share are drawn, in (0, 1].
            order (`str` or `torch.LongTensor`, *optional*): name of a decoding order, or a permutation of the raster
                places, of shape (N,) or one row per image.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            output_type (`str`): `"pil"`, `"np"`, `"pt"`, or `"latent"` for tokens (B, N) in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step; tokens are (B, N), -1 where unknown. It returns a dict, whose `latents` replace the
                tokens. Setting `pipe._interrupt = True` stops; cells not decoded by then are grey.
            callback_on_step_end_tensor_inputs (`list[str]`): what the callback gets, of `["latents"]`.

        Returns:
            `ImagePipelineOutput` or `tuple`: the images.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self.check_inputs(num_images_per_prompt, output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        label_ids = self.get_label_ids(class_labels)
        states = self.transformer.generation_steps(
            [label for label in label_ids for _ in range(num_images_per_prompt)],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            order=order,
            generator=generator,
        )
        latents = self._run(states, callback_on_step_end, callback_on_step_end_tensor_inputs)
        if output_type == "latent":
            images = latents
        else:
            pixels = self.decode_latents(latents, *self.transformer.config.grid)
            images = self.image_processor.postprocess(pixels, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _run(self, states, callback_on_step_end, tensor_inputs: list[str]) -> torch.LongTensor:
        """Take all decoding steps under the progress bar, with the callback after each; returns the tokens (B, N)."""
        state = next(states)
        self._num_timesteps, self._guidance_scale, self._interrupt = state.num_steps, state.guidance_scale, False
        with self.progress_bar(total=state.num_steps) as progress_bar:
            for state in states:
                if callback_on_step_end is not None:
                    inputs = {"latents": state.tokens} if "latents" in tensor_inputs else {}
                    outputs = callback_on_step_end(self, state.step, state.step, inputs) or {}
                    state.tokens = outputs.get("latents", state.tokens)
                    state.guidance_scale = self._guidance_scale
                progress_bar.update()
                if self._interrupt:
                    break
        return state.tokens
