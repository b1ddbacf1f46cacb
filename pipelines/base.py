"""What the pipelines share: components, labels, checks, and the way from a plan to tokens and to images."""

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import is_compiled_module
from diffusers import DiffusionPipeline, ImagePipelineOutput, VQModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from randar_hf.checks import check_int, check_number
from randar_hf.generation import GenerationState
from randar_hf.generation_plan import GenerationPlan
from randar_hf.randomness import check_generators
from randar_hf.vq import decode_images, downsampling, encode_images

from .hub import HubMixin
from .image_tensors import repeat_each, to_output
from .labels import check_names, find_label_id, list_labels, read_names
from .masks import composite
from .sizes import check_size


LONG_WORK = 4096  # tokens of an image
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# The classes of transformers by their `model_type`, and what to do with one that a pipeline does not take.
TRANSFORMERS = {"randar": "RandARForCausalLM", "rar": "RARForCausalLM"}
ADVICE = {
    "randar": "RandARPipeline generates with it",
    "rar": (
        "RARPipeline generates with it; it goes in one order, so it cannot inpaint, outpaint or extrapolate, "
        "as a RandARForCausalLM can"
    ),
}


class CallInProgress(threading.local):
    """What a callback reads and sets of the call in progress: `guidance_scale`, `num_timesteps` and `interrupt`."""

    def __reduce__(self):
        return type(self), ()  # a copy of a pipeline has no call in progress


def _of_call(name: str) -> property:
    """An attribute of a pipeline that belongs to the call in progress, so that each thread has its own."""
    return property(lambda self: getattr(self._call, name), lambda self, value: setattr(self._call, name, value))


class RandARBasePipeline(HubMixin, DiffusionPipeline):
    """
    Base of the pipelines of RandAR (arXiv 2412.01827) and RAR (arXiv 2411.00776).

    A call of each of them goes through `check_inputs`, `encode_labels`, a plan of generation, `encode_images` where
    there are images, `decode`, `refine` and `postprocess`. Nothing runs before the plan stands, and no random number
    is sampled.

    Args:
        transformer ([`RandARForCausalLM`] or [`RARForCausalLM`]): predicts image tokens; the pipeline's `model_type`
            says which of them.
        vqvae (`diffusers.VQModel`): turns tokens into images.
        id2label (`dict[int, str]`, *optional*): class names, so that labels can be given by name; names separated by
            commas are synonyms.

    Raises a `ValueError` for a transformer of another kind, which names the pipeline for it.
    """

    model_type = "randar"
    model_cpu_offload_seq = "transformer->vqvae"
    _callback_tensor_inputs = ["latents"]
    _guidance_scale, _num_timesteps, _interrupt = map(_of_call, ("guidance_scale", "num_timesteps", "interrupt"))

    def __init__(
        self,
        transformer: PreTrainedModel,
        vqvae: VQModel,
        id2label: dict[int, str] | dict[str, str] | None = None,
    ):
        super().__init__()
        self._call = CallInProgress()
        self.check_kind(transformer)
        if not hasattr(getattr(vqvae, "config", None), "num_vq_embeddings"):
            raise ValueError(f"`vqvae` must be a diffusers.VQModel, the image tokenizer, got {type(vqvae).__name__}.")
        check_names(id2label)
        self.register_modules(transformer=transformer, vqvae=vqvae)
        self.register_to_config(id2label=id2label)
        self.image_processor = VaeImageProcessor(vae_scale_factor=downsampling(vqvae), do_convert_rgb=True)

    def __setattr__(self, name: str, value):
        if name == "transformer" and is_compiled_module(value):
            raise ValueError(
                "`transformer` must not be what `torch.compile(model)` returns, which decoding would not call: "
                "compile in place by `pipe.transformer.compile(...)`, or give calls a `compile_config`."
            )
        super().__setattr__(name, value)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by class id: the pipeline's, or else those of the model's configuration; empty without any."""
        return read_names(self.config.id2label) or read_names(
            getattr(getattr(self.transformer, "config", None), "id2label", None)
        )

    @property
    def components(self) -> dict[str, Any]:
        """What another pipeline of the same parts is made of: `transformer`, `vqvae` and `id2label`."""
        return {**super().components, "id2label": self.config.id2label}

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

    def check_kind(self, transformer: PreTrainedModel | None):
        """Raise a `ValueError` for a transformer that is not of the pipeline's kind; diffusers may leave it out."""
        kind = getattr(getattr(transformer, "config", None), "model_type", None)
        if transformer is None or kind == self.model_type:
            return
        advice = f": {ADVICE[kind]}" if kind in ADVICE else ""
        raise ValueError(
            f"`transformer` must be a {TRANSFORMERS[self.model_type]} for {type(self).__name__}, "
            f"got {type(transformer).__name__}{advice}."
        )

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
        refine: int = 0,
        refine_share: float = 0.1,
    ):
        """Check the components against each other, and the arguments that the transformer does not check itself."""
        self.check_components()
        check_int("refine", refine, 0)
        check_number("refine_share", refine_share, "(0, 1]")
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise ValueError(f"`callback_on_step_end` must be callable, got {callback_on_step_end!r}.")
        check_int("num_images_per_prompt", num_images_per_prompt, 1)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        if not set(callback_on_step_end_tensor_inputs) <= set(self._callback_tensor_inputs):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be among {self._callback_tensor_inputs}, "
                f"got {callback_on_step_end_tensor_inputs}."
            )

    def check_grid(self, height: int | None, width: int | None, default_factor: int = 1) -> tuple[int, int]:
        """Rows and columns of tokens for a size in pixels; by default those of the trained grid times a factor."""
        multiple = self.image_processor.config.vae_scale_factor
        sides = zip(("height", "width"), (height, width), self.transformer.config.grid, strict=True)
        rows, columns = (
            default_factor * side if pixels is None else check_size(name, pixels, multiple)
            for name, pixels, side in sides
        )
        return rows, columns

    def encode_labels(
        self,
        class_labels: int | str | list[int | str] | torch.Tensor,
        num_images_per_prompt: int,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> list[int]:
        """Class ids (B,), those of a label next to one another; raises unless generators are one for each image."""
        labels = self.get_label_ids(class_labels)
        self.check_count(len(labels), num_images_per_prompt)
        labels = repeat_each(labels, num_images_per_prompt)
        check_generators(generator, len(labels))
        return labels

    def check_count(self, num_labels: int, num_images: int, argument: str = "num_images_per_prompt"):
        """Raise a `ValueError` unless so many images for each label are at least one, and their decoding fits."""
        count = num_labels * check_int(argument, num_images, 1)
        batch = f"a batch of {count} images by `{argument}`"
        self.transformer.check_memory(count, self.transformer.config.num_tokens, argument=batch)

    def announce(self, *plans: GenerationPlan):
        """Tell of long work before it begins, unless the progress bar, which tells the time left, is turned off."""
        num_known = sum(max(plan.num_known) for plan in plans)
        num_open = sum(plan.shape[1] - min(plan.num_known) for plan in plans)
        if num_known + num_open <= LONG_WORK or getattr(self, "_progress_bar_config", {}).get("disable"):
            return
        after = f", after {num_known:,} known ones are read" if num_known else ""
        tqdm.write(
            f"{type(self).__name__}: {plans[0].shape[0]:,} x {num_open:,} tokens to decode in "
            f"{sum(plan.num_steps for plan in plans):,} steps{after}; the time left is told after the first step.",
            file=sys.stderr,
        )

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens (B, h, w) of images (B, 3, H, W) in [0, 1], whose sides are multiples of the pixels of a token."""
        return encode_images(self.vqvae, self.image_processor.normalize(pixels))

    def decode_latents(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
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

    def decode(
        self,
        states: Iterator[GenerationState],
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> torch.Tensor:
        """Take all decoding steps under the progress bar, with the callback after each; returns the tokens (B, N)."""
        tensor_inputs = callback_on_step_end_tensor_inputs
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            tensor_inputs = callback_on_step_end.tensor_inputs
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
            else:
                progress_bar.total = progress_bar.n  # lossless decoding finds out how many passes it takes
        return state.tokens

    def refine(
        self,
        latents: torch.Tensor,
        plan: GenerationPlan,
        num_rounds: int,
        share: float,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> torch.Tensor:
        """Tokens (B, N) of a plan, refined in rounds in the stored order and steps, unless a callback interrupted."""
        if not num_rounds or self._interrupt:
            return latents
        stored, settings = self.transformer.generation_config, copy.copy(plan.settings)
        settings.order, settings.num_inference_steps = stored.order, stored.num_inference_steps
        return self.transformer.refine(
            latents,
            plan.class_labels,
            share=share,
            num_rounds=num_rounds,
            known_mask=plan.known_mask,
            grid_size=plan.grid if plan.rotary is None else None,
            rotary=plan.rotary,
            generator=generator,
            compile_config=plan.compile_config,
            generation_config=settings,
        )

    def postprocess(
        self,
        latents: torch.Tensor,
        grid: tuple[int, int],
        output_type: str,
        return_dict: bool,
        originals: list[torch.Tensor] | None = None,
        weights: list[torch.Tensor] | None = None,
    ) -> ImagePipelineOutput | tuple:
        """
        What a call returns for tokens (B, N) on a grid.

        Originals (3, H, W) in [0, 1] come back where their weights (H, W) are 0; where they are 1, what tokens show.
        """
        images: Any = latents
        if output_type != "latent" and (originals is None or weights is None):
            images = self.image_processor.postprocess(self.decode_latents(latents, *grid), output_type=output_type)
        elif output_type != "latent" and originals is not None and weights is not None:
            if any(part.any() for part in weights):
                painted = self.image_processor.denormalize(self.decode_latents(latents, *grid).float())  # (B, 3, H, W)
                originals = [composite(*parts) for parts in zip(originals, painted, weights, strict=True)]
            images = to_output(originals, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
