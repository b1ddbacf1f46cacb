"""
Parallel decoding in any order with a key-value cache (Sec. 3.3, Algorithm B).

One loop serves every task. What differs is data made before it starts: the tokens that are known, the order, how many
tokens each step decodes, the rotary table, and the random numbers.

Shapes: B images, N image tokens of one image, G tokens of one step, V codebook entries.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from .cache import preallocated_cache
from .checks import check_class_labels, check_grid_size, check_known_tokens
from .configuration_generation import RandARGenerationConfig
from .devices import execution_device
from .layout import DecodingStep, decoding_steps, longest_sequence
from .orders import check_order, make_order
from .randomness import check_generators, uniform
from .sampling import sample_tokens
from .schedules import group_sizes, guidance_weight


logger = logging.get_logger(__name__)


@dataclass
class GenerationState:
    """
    What is known before the first decoding step or after one, given by [`RandARGenerationMixin.generation_steps`].

    Whoever iterates may set `tokens` and `guidance_scale` for the steps to come. A changed token becomes context only
    if it was drawn in the latest step: older ones are in the cache already.

    Attributes:
        step (`int`): index of the step just taken, -1 before the first.
        num_steps (`int`): steps in all.
        tokens (`torch.LongTensor` of shape (B, N)): tokens in raster order, -1 where none is decoded yet.
        guidance_scale (`float`): guidance scale of the next step.
    """

    step: int
    num_steps: int
    tokens: torch.LongTensor
    guidance_scale: float


@dataclass
class _Decoding:
    """Everything the loop needs, checked and made before it starts. R is B, or 2B with guidance."""

    class_labels: torch.LongTensor  # (R,), the second half null
    tokens: torch.LongTensor  # (B, N) raster, -1 where unknown
    order: torch.LongTensor  # (B, N), known places first
    steps: list[DecodingStep]
    rotary: torch.Tensor  # (N + 1, d / 2, 2)
    uniforms: torch.Tensor | None  # (B, N) in generation order; None takes the most likely token
    processors: LogitsProcessorList
    guidance_scale: float
    guidance_schedule: str


class RandARGenerationMixin:
    """Generation of image tokens, for models whose forward pass runs over a [`~randar_hf.layout.Layout`] of slots."""

    def generate(
        self,
        class_labels: torch.LongTensor | Sequence[int] | int,
        order: str | torch.LongTensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        *,
        known_tokens: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
        grid_size: int | tuple[int, int] | None = None,
        logits_processor: LogitsProcessorList | None = None,
        generation_config: RandARGenerationConfig | None = None,
    ) -> torch.LongTensor:
        """
        Generate the tokens of a batch of images.

        Arguments that are `None` take their value from `generation_config`, by default the model's own.

        Args:
            class_labels (`torch.LongTensor` of shape (B,), `list[int]` or `int`): a class for each image;
                `config.num_classes` is the null class.
            order (`str` or `torch.LongTensor` of shape (N,) or (B, N), *optional*): name of an order, or a
                permutation of the raster places: `order[b, i]` is decoded i-th.
            num_inference_steps (`int`, *optional*): steps, from 1 to N; at most one per unknown token is taken.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale) or `"constant"`.
            do_sample (`bool`, *optional*): draw tokens, or take the most likely ones.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): 0 keeps all tokens.
            top_p (`float`, *optional*): in (0, 1].
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness. With a
                list, an image does not depend on what it is batched with.
            known_tokens (`torch.LongTensor` of shape (B, N), *optional*): tokens in raster order to keep.
            known_mask (`torch.BoolTensor` of shape (B, N), *optional*): true where `known_tokens` is context: it is
                read in one pass and returned unchanged. Images may differ in how much they know.
            grid_size (`int` or `(int, int)`, *optional*): rows and columns to generate, if not the trained ones.
            logits_processor (`LogitsProcessorList`, *optional*): called before temperature, top-k and top-p with the
                partial images (B * G, N), -1 where unknown, and the logits (B * G, V).
            generation_config ([`RandARGenerationConfig`], *optional*): settings instead of the model's own.

        Returns:
            `torch.LongTensor` of shape (B, N): tokens in raster order.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        states = self.generation_steps(
            class_labels,
            order=order,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            known_tokens=known_tokens,
            known_mask=known_mask,
            grid_size=grid_size,
            logits_processor=logits_processor,
            generation_config=generation_config,
        )
        for state in states:
            tokens = state.tokens
        return tokens

    def generation_steps(
        self,
        class_labels: torch.LongTensor | Sequence[int] | int,
        order: str | torch.LongTensor | None = None,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        known_tokens: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
        grid_size: int | tuple[int, int] | None = None,
        logits_processor: LogitsProcessorList | None = None,
        generation_config: RandARGenerationConfig | None = None,
        **settings,
    ) -> Iterator[GenerationState]:
        """
        Generate step by step: an iterator over the states between steps, for progress, previews and callbacks.

        Takes the arguments of [`~RandARGenerationMixin.generate`] and checks them before it returns. Leaving the
        iterator early stops generation.

        Returns:
            iterator over [`GenerationState`], the first before any step; the last one's `tokens` are complete.
        """
        config = self._merge_settings(generation_config, order, settings)
        height, width = self._check_grid(self.config.grid if grid_size is None else grid_size)
        num_tokens = height * width
        class_labels = check_class_labels(class_labels, self.config.num_classes)
        batch_size = len(class_labels)
        tokens = check_known_tokens(known_tokens, known_mask, batch_size, num_tokens, self.config.vocab_size)
        num_steps = self._check_num_steps(config, settings.get("num_inference_steps"), num_tokens)
        check_generators(generator, batch_size)
        if order is None or isinstance(order, str):
            order = make_order(config.order, height, width, batch_size, generator)
        else:
            order = check_order(order, num_tokens, batch_size).cpu()
        self._check_raster(order)
        uniforms = uniform((num_tokens,), batch_size, generator) if config.do_sample else None

        # Known places come first; within each part the order stays.
        unknown = (tokens < 0).gather(1, order)
        order = order.gather(1, unknown.long().argsort(dim=1, stable=True))
        num_unknown = unknown.sum(dim=1).tolist()
        groups = [group_sizes(count, min(num_steps, count)) if count else [] for count in num_unknown]
        num_known = [num_tokens - count for count in num_unknown]
        branches = 1 if config.guidance_scale == 1 else 2
        device = execution_device(self)
        null_labels = torch.full((batch_size * (branches - 1),), self.config.num_classes)
        decoding = _Decoding(
            class_labels=torch.cat([class_labels, null_labels]).to(device),
            tokens=tokens.to(device),
            order=order.to(device),
            steps=decoding_steps(num_known * branches, groups * branches, num_tokens, self.base_model.merged, device),
            rotary=self.base_model.rotary_table(height, width, device),
            uniforms=None if uniforms is None else uniforms.to(device),
            processors=_logits_processors(config, logits_processor),
            guidance_scale=config.guidance_scale,
            guidance_schedule=config.guidance_schedule,
        )
        return self._decode(decoding)

    @torch.no_grad()
    def _decode(self, decoding: _Decoding) -> Iterator[GenerationState]:
        """The decode loop. After each step the cache holds the sequence as training lays it out."""
        batch_size, num_tokens = decoding.tokens.shape
        branches = len(decoding.class_labels) // batch_size
        order = decoding.order.repeat(branches, 1)  # (R, N)
        # Index N is padding: it stands for no token, at place N, a column that is cut off again.
        places = torch.nn.functional.pad(decoding.order, (0, 1), value=num_tokens)  # (B, N + 1)
        cache = preallocated_cache(self.config.num_hidden_layers, longest_sequence(decoding.steps))
        state = GenerationState(-1, len(decoding.steps), decoding.tokens, decoding.guidance_scale)
        yield state
        for index, step in enumerate(decoding.steps):
            logits = self(
                input_ids=state.tokens.repeat(branches, 1),
                class_labels=decoding.class_labels,
                order=order,
                layout=step.layout,
                rotary=decoding.rotary,
                attention_mask=step.attention_mask,
                past_key_values=cache,
            ).logits.float()  # (R, G, V)
            cache.crop(-step.num_rewound)
            if branches == 2:
                weight = guidance_weight(decoding.guidance_schedule, state.guidance_scale, step.done[:batch_size])
                conditional, unconditional = logits.chunk(2)
                logits = unconditional + weight.view(-1, 1, 1) * (conditional - unconditional)  # (B, G, V)
            elif state.guidance_scale != 1:
                raise ValueError(
                    "`guidance_scale` must stay 1 where generation started without guidance, "
                    f"got {state.guidance_scale}."
                )

            predicted = step.layout.predicted[:batch_size, step.layout.queries].expand(batch_size, -1)  # (B, G)
            drawn = self._draw(logits, state.tokens, predicted, decoding)  # (B, G)
            tokens = torch.nn.functional.pad(state.tokens, (0, 1)).scatter(1, places.gather(1, predicted), drawn)
            state = GenerationState(index, state.num_steps, tokens[:, :num_tokens], state.guidance_scale)
            yield state

    def _draw(
        self, logits: torch.Tensor, tokens: torch.LongTensor, predicted: torch.LongTensor, decoding: _Decoding
    ) -> torch.LongTensor:
        """Tokens (B, G) for the logits (B, G, V) of the predicted indices (B, G), given the partial images (B, N)."""
        group = logits.shape[1]
        scores = decoding.processors(tokens.repeat_interleave(group, dim=0), logits.flatten(0, 1))  # (B * G, V)
        if decoding.uniforms is None:
            return scores.argmax(dim=-1).view(predicted.shape)
        uniforms = torch.nn.functional.pad(decoding.uniforms, (0, 1)).gather(1, predicted)  # (B, G)
        return sample_tokens(scores, uniforms.flatten()).view(predicted.shape)

    def _merge_settings(
        self, generation_config: RandARGenerationConfig | None, order: Any, settings: dict[str, Any]
    ) -> RandARGenerationConfig:
        """The settings of this call: the given configuration, or the model's own, with what the caller changes."""
        if generation_config is None:
            generation_config = self.generation_config
        if not isinstance(generation_config, self.generation_config_class):
            raise TypeError(
                f"`generation_config` must be a {self.generation_config_class.__name__}, got {generation_config!r}."
            )
        config = copy.deepcopy(generation_config)
        if isinstance(order, str):
            settings = {**settings, "order": order}
        for name, value in settings.items():
            if not hasattr(config, name):
                raise TypeError(f"generate() got an unexpected argument {name!r}.")
            if value is not None:
                setattr(config, name, value)
        config.validate()
        return config

    def _check_grid(self, grid_size: int | Sequence[int]) -> tuple[int, int]:
        """Rows and columns to generate: any with rotary position instructions, the trained ones with an embedding."""
        grid, kind = check_grid_size(grid_size), self.config.position_instruction
        if kind in ("dense", "merge") and grid != self.config.grid:
            raise ValueError(
                f"`grid_size` must be the trained {self.config.grid} for a model with "
                f"`position_instruction={kind!r}`, which has an embedding for each of its places, got {grid}."
            )
        return grid

    def _check_num_steps(self, config: RandARGenerationConfig, asked: int | None, num_tokens: int) -> int:
        """Steps for a grid: what the caller asks for must fit it, a stored default is cut to it."""
        if asked is not None and asked > num_tokens:
            raise ValueError(f"`num_inference_steps` must lie between 1 and {num_tokens} tokens, got {asked}.")
        if self.config.position_instruction != "none":
            return min(config.num_inference_steps, num_tokens)
        if asked is not None and asked != num_tokens:
            raise ValueError(
                "`num_inference_steps` must equal the number of tokens for a model without position instructions, "
                f"which decodes one after another: {num_tokens}, got {asked}."
            )
        return num_tokens

    def _check_raster(self, order: torch.LongTensor):
        """A model without position instructions can only go on with the next place in raster order."""
        if self.config.position_instruction == "none" and (order != torch.arange(order.shape[1])).any():
            raise ValueError("`order` must be 'raster' for a model without position instructions, got another order.")

    def adjust_generation_fn(
        self,
        generation_config,
        from_auto_class,
        from_pipeline,
        pretrained_model_name_or_path,
        cache_dir,
        force_download,
        proxies,
        local_files_only,
        token,
        revision,
        subfolder,
        trust_remote_code,
        **kwargs,
    ):
        """Called by `from_pretrained`: load the stored generation settings as this model's own kind of settings."""
        if generation_config is not None:
            self.generation_config = copy.deepcopy(generation_config)
            return
        try:
            self.generation_config = self.generation_config_class.from_pretrained(
                pretrained_model_name_or_path,
                cache_dir=cache_dir,
                force_download=force_download,
                proxies=proxies,
                local_files_only=local_files_only,
                token=token,
                revision=revision,
                subfolder=subfolder,
                _from_auto=from_auto_class,
                _from_pipeline=from_pipeline,
                **kwargs,
            )
        except OSError:
            logger.info("No generation_config.json found: generation uses the defaults of the model's configuration.")


def _logits_processors(config: RandARGenerationConfig, own: LogitsProcessorList | None) -> LogitsProcessorList:
    """The caller's processors, then temperature, top-k and top-p as far as they change anything."""
    if own is not None and not isinstance(own, list):
        raise TypeError(f"`logits_processor` must be a LogitsProcessorList or a list of processors, got {own!r}.")
    processors = LogitsProcessorList(own or [])
    if config.do_sample and config.temperature != 1:
        processors.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.do_sample and config.top_k > 0:
        processors.append(TopKLogitsWarper(config.top_k))
    if config.do_sample and config.top_p < 1:
        processors.append(TopPLogitsWarper(float(config.top_p)))
    return processors


__all__ = ["GenerationState", "RandARGenerationMixin"]
