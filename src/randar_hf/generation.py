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
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from .cache import preallocated_cache
from .checks import check_class_labels, check_known_tokens, check_places_of_grid
from .configuration_generation import RandARGenerationConfig
from .devices import execution_device
from .guidance import Guidance, check_spatial_guidance
from .layout import DecodingStep, decoding_steps, longest_sequence
from .memory import check_memory
from .modes import evaluation_mode
from .orders import check_fixed_order, check_order, known_first, make_order
from .randomness import check_generators, uniform
from .sampling import sample_tokens
from .schedules import group_sizes


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
    """Everything the loop needs, checked and made before it starts. R rows: B times the sequences of guidance."""

    class_labels: torch.LongTensor  # (R,)
    tokens: torch.LongTensor  # (B, N) raster, -1 where unknown
    left_out: torch.BoolTensor | None  # (R, N), tokens that a sequence lacks
    order: torch.LongTensor  # (B, N), known places first
    steps: list[DecodingStep]
    places: dict[str, torch.Tensor]  # what the model needs to know of the places
    uniforms: torch.Tensor | None  # (B, N) in generation order; None takes the most likely token
    processors: LogitsProcessorList
    guidance: Guidance


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
        guidance_power: float | None = None,
        known_tokens: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
        grid_size: int | tuple[int, int] | None = None,
        rotary: torch.Tensor | None = None,
        spatial_guidance_scale: float = 1.0,
        spatial_dropout: float | torch.BoolTensor = 0.25,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
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
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`
                (RAR's).
            do_sample (`bool`, *optional*): draw tokens, or take the most likely ones.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): 0 keeps all tokens.
            top_p (`float`, *optional*): in (0, 1].
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness. With a
                list, an image does not depend on what it is batched with.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            known_tokens (`torch.LongTensor` of shape (B, N), *optional*): tokens in raster order to keep.
            known_mask (`torch.BoolTensor` of shape (B, N), *optional*): true where `known_tokens` is context: it is
                read in one pass and returned unchanged. Images may differ in how much they know.
            grid_size (`int` or `(int, int)`, *optional*): rows and columns to generate, if not the trained ones.
            rotary (`torch.Tensor` of shape (N + 1, d / 2, 2), *optional*): table of N places of any kind instead of a
                grid, from [`~RandARModel.rotary_table_at`]; then `order` is `"random"`, `"raster"` or a tensor.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F), at least 0: away from what a
                sequence that lacks some tokens predicts; 1 turns it off.
            spatial_dropout (`float` or `torch.BoolTensor` of shape (B, N)): share of the newly drawn tokens that this
                sequence lacks, in [0, 1), or a mask of those that it lacks.
            logits_processor (`LogitsProcessorList`, *optional*): called before temperature, top-k and top-p with the
                partial images (B * G, N), -1 where unknown, and the logits (B * G, V).
            streamer (`BaseStreamer`, *optional*): gets the partial images (B, N), -1 where unknown, before the first
                and after each step.
            generation_config ([`RandARGenerationConfig`], *optional*): settings instead of the model's own.

        Returns:
            `torch.LongTensor` of shape (B, N): tokens in raster order.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        if streamer is not None and not isinstance(streamer, BaseStreamer):
            raise TypeError(f"`streamer` must be a BaseStreamer of transformers, got {streamer!r}.")
        states = self.generation_steps(
            class_labels,
            order=order,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            guidance_power=guidance_power,
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            known_tokens=known_tokens,
            known_mask=known_mask,
            grid_size=grid_size,
            rotary=rotary,
            spatial_guidance_scale=spatial_guidance_scale,
            spatial_dropout=spatial_dropout,
            logits_processor=logits_processor,
            generation_config=generation_config,
        )
        for state in states:
            tokens = state.tokens
            if streamer is not None:
                streamer.put(tokens)
        if streamer is not None:
            streamer.end()
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
        rotary: torch.Tensor | None = None,
        spatial_guidance_scale: float = 1.0,
        spatial_dropout: float | torch.BoolTensor = 0.25,
        logits_processor: LogitsProcessorList | None = None,
        generation_config: RandARGenerationConfig | None = None,
        **settings,
    ) -> Iterator[GenerationState]:
        """
        Generate step by step: an iterator over the states between steps, for progress, previews and callbacks.

        Takes the arguments of [`~RandARGenerationMixin.generate`] but the streamer, and checks them before it returns.
        Leaving the iterator early stops generation.

        Returns:
            iterator over [`GenerationState`], the first before any step; the last one's `tokens` are complete.
        """
        config = self._merge_settings(generation_config, order, settings)
        height, width = self._check_places(
            grid_size, rotary, order if isinstance(order, torch.Tensor) else config.order
        )
        num_tokens = height * width
        class_labels = check_class_labels(class_labels, self.config.num_classes)
        batch_size = len(class_labels)
        spatial_guidance_scale, spatial_dropout = check_spatial_guidance(
            spatial_guidance_scale, spatial_dropout, (batch_size, num_tokens)
        )
        guidance = Guidance(
            config.guidance_scale, config.guidance_schedule, spatial_guidance_scale, config.guidance_power
        )
        is_mask = isinstance(known_mask, torch.Tensor) and known_mask.shape == (batch_size, num_tokens)
        num_known = int(known_mask.sum(dim=1).max()) if is_mask else 0
        self.check_memory(batch_size * guidance.branches, num_tokens, num_known)
        tokens = check_known_tokens(known_tokens, known_mask, batch_size, num_tokens, self.config.vocab_size)
        num_steps = self._check_num_steps(config, settings.get("num_inference_steps"), num_tokens)
        check_generators(generator, batch_size)
        if order is None or isinstance(order, str):
            order = make_order(config.order, height, width, batch_size, generator)
        else:
            order = check_order(order, num_tokens, batch_size).cpu()
        fixed_order = self.config.fixed_order
        check_fixed_order(order, fixed_order, height, width)
        uniforms = uniform((num_tokens,), batch_size, generator) if config.do_sample else None
        if guidance.uses_space and not isinstance(spatial_dropout, torch.Tensor):
            spatial_dropout = (uniform((num_tokens,), batch_size, generator) < spatial_dropout) & (tokens < 0)
        order, num_known = known_first(order, tokens >= 0)
        rule = f"`known_mask` must be true for the first tokens in the order {fixed_order!r} alone"
        check_fixed_order(order, fixed_order, height, width, rule)
        num_unknown = [num_tokens - known for known in num_known]
        groups = [group_sizes(count, min(num_steps, count)) if count else [] for count in num_unknown]
        device = execution_device(self)
        repeat = guidance.branches
        steps = decoding_steps(num_known * repeat, groups * repeat, num_tokens, self.base_model.form, device)
        left_out = guidance.left_out(spatial_dropout.cpu()) if guidance.uses_space else None
        decoding = _Decoding(
            class_labels=guidance.null_labels(class_labels, self.config.num_classes).to(device),
            tokens=tokens.to(device),
            left_out=None if left_out is None else left_out.to(device),
            order=order.to(device),
            steps=steps,
            places=self.base_model.describe_places(height, width, device, rotary),
            uniforms=None if uniforms is None else uniforms.to(device),
            processors=_logits_processors(config, logits_processor),
            guidance=guidance,
        )
        return self._decode(decoding)

    @torch.no_grad()
    def _decode(self, decoding: _Decoding) -> Iterator[GenerationState]:
        """The decode loop. After each step the cache holds the sequence as training lays it out."""
        batch_size, num_tokens = decoding.tokens.shape
        guidance = decoding.guidance
        order = decoding.order.repeat(guidance.branches, 1)  # (R, N)
        # Index N is padding: it stands for no token, at place N, a column that is cut off again.
        places = torch.nn.functional.pad(decoding.order, (0, 1), value=num_tokens)  # (B, N + 1)
        cache = preallocated_cache(self.config.num_hidden_layers, longest_sequence(decoding.steps))
        state = GenerationState(-1, len(decoding.steps), decoding.tokens, guidance.scale)
        yield state
        inputs = self.base_model.step_inputs(decoding.steps, decoding.class_labels, decoding.places)
        for index, (step, step_inputs) in enumerate(zip(decoding.steps, inputs, strict=True)):
            if not guidance.uses_class and state.guidance_scale != 1:
                raise ValueError(
                    "`guidance_scale` must stay 1 where generation started without guidance, "
                    f"got {state.guidance_scale}."
                )
            input_ids = state.tokens.repeat(guidance.branches, 1)  # (R, N)
            with evaluation_mode(self):  # checkpointed layers would leave the cache empty
                outputs = self(
                    input_ids=input_ids if decoding.left_out is None else input_ids.masked_fill(decoding.left_out, -1),
                    class_labels=decoding.class_labels,
                    order=order,
                    layout=step.layout,
                    attention_mask=step.attention_mask,
                    past_key_values=cache,
                    **step_inputs,
                )
            logits = outputs.logits.float()  # (R, G, V)
            cache.crop(-step.num_rewound)
            logits = guidance.combine(logits, state.guidance_scale, step.done[:batch_size])  # (B, G, V)

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

    def _check_places(self, grid_size: Any, rotary: Any, order: Any) -> tuple[int, int]:
        """Rows and columns to generate, by default the trained ones; places of one's own count as one row."""
        if rotary is None:
            return check_places_of_grid(grid_size, self.config)
        if self.config.has_place_embeddings:
            raise ValueError(
                "`rotary` needs a model with rotary position instructions, got one with an embedding for each place."
            )
        if grid_size is not None:
            raise ValueError("`grid_size` and `rotary` exclude each other, got both.")
        width = self.config.hidden_size // self.config.num_attention_heads // 2
        is_table = isinstance(rotary, torch.Tensor) and rotary.ndim == 3 and rotary.shape[1:] == (width, 2)
        if not is_table or len(rotary) < 2 or not rotary.is_floating_point():
            raise ValueError(
                f"`rotary` must be a table of the shape (places + 1, {width}, 2), "
                f"got {tuple(rotary.shape) if isinstance(rotary, torch.Tensor) else rotary!r}."
            )
        if isinstance(order, str) and order not in ("random", "raster"):
            raise ValueError(f"`order` must be 'random', 'raster' or a tensor for places of one's own, got {order!r}.")
        return 1, len(rotary) - 1

    def _check_num_steps(self, config: RandARGenerationConfig, asked: int | None, num_tokens: int) -> int:
        """Steps for a grid: what the caller asks for must fit it, a stored default is cut to it."""
        if asked is not None and asked > num_tokens:
            raise ValueError(f"`num_inference_steps` must lie between 1 and {num_tokens} tokens, got {asked}.")
        if self.config.fixed_order is None:
            return min(config.num_inference_steps, num_tokens)
        if asked is not None and asked != num_tokens:
            raise ValueError(
                f"`num_inference_steps` must equal the number of tokens for a model of the order "
                f"{self.config.fixed_order!r} alone, which decodes one after another: {num_tokens}, got {asked}."
            )
        return num_tokens

    def check_memory(self, num_sequences: int, num_tokens: int, num_known: int = 0, argument: str = "`grid_size`"):
        """
        Raise a `ValueError` if decoding would not fit into memory, before anything is made for it.

        Args:
            num_sequences (`int`): images times sequences of guidance.
            num_tokens (`int`): tokens of one image.
            num_known (`int`): tokens of one image that are read in one pass.
            argument (`str`): what gives the size, for the message.
        """
        config, slots = self.config, 1 if self.base_model.form.merged else 2
        head_dim = config.hidden_size // config.num_attention_heads
        cache = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * (slots * num_tokens + 1)
        states = (slots * num_known + 1) * (4 * config.hidden_size + 2 * config.intermediate_size)
        num_bytes = num_sequences * (cache + states) * self.dtype.itemsize
        check_memory(num_tokens, num_bytes, execution_device(self), argument)

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
        """
        Called by `from_pretrained`: load the stored generation settings as this model's own kind of settings.

        Of the further arguments those that belong to the model's configuration come along, and are left out.
        """
        if generation_config is not None:
            self.generation_config = copy.deepcopy(generation_config)
            return
        kwargs = {name: value for name, value in kwargs.items() if not hasattr(self.config, name)}
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
