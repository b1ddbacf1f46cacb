"""
Parallel decoding in any order with a key-value cache (Sec. 3.3, Algorithm B).

One loop serves every task. What differs is settled in a [`~randar_hf.generation_plan.GenerationPlan`] and made from it
before the loop starts: the tokens that are known, the order, how many tokens each step decodes, the positions, and the
random numbers.

Shapes: B images, N image tokens of one image, G tokens of one step, V codebook entries.
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CompileConfig, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from .cache import IndexedCache
from .checks import check_known_tokens, is_outside
from .configuration_generation import RandARGenerationConfig
from .devices import execution_device
from .frontier import DecodingPass, PaperSchedule, SpeculativeSchedule
from .generation_plan import GenerationPlan, GenerationPlanMixin
from .guidance import check_scale
from .late_flags import LateFlags
from .layout import sequence_length
from .modes import evaluation_mode
from .orders import known_first, make_order
from .randomness import check_generators, image_seeds, uniform
from .sampling import sample_tokens
from .stored_settings import find_settings


COMPILED_SIZES = 3  # shapes of the passes of a compiled run, at most

logger = logging.get_logger(__name__)


@dataclass
class GenerationState:
    """
    What is known before the first decoding step or after one, given by [`RandARGenerationMixin.generation_steps`].

    Whoever iterates may set `tokens`, where they are decoded, and `guidance_scale` for the steps to come. A changed
    token becomes context only if it was sampled in the latest step, with a speculative window if it is the last one:
    older ones are in the cache already.

    Attributes:
        step (`int`): index of the step just taken, -1 before the first.
        num_steps (`int`): steps in all; with a speculative window, at most.
        tokens (`torch.LongTensor` of shape (B, N)): tokens in raster order, -1 where none is decoded yet.
        guidance_scale (`float`): guidance scale of the next step.
    """

    step: int
    num_steps: int
    tokens: torch.Tensor
    guidance_scale: float


@dataclass
class _Decoding:
    """Everything the loop needs, made from a plan before it starts. R rows: B times the sequences of guidance."""

    plan: GenerationPlan
    class_labels: torch.Tensor  # (R,)
    tokens: torch.Tensor  # (B, N) raster, -1 where unknown
    has_wrong_tokens: torch.Tensor  # (), whether known tokens lie outside the codebook
    dropped: torch.Tensor | None  # (R, N), tokens that a sequence drops
    num_known: torch.Tensor  # (B, 1)
    order: torch.Tensor  # (B, N), known positions first
    schedule: PaperSchedule | SpeculativeSchedule
    positions: dict[str, torch.Tensor]  # what the model needs to know of the positions
    seeds: torch.Tensor | None  # (B,) of the noise; None takes the most likely token
    forward: Callable  # the model, or its compiled forward pass

    @property
    def is_compiled(self) -> bool:
        return self.plan.compile_config is not None


class RandARGenerationMixin(GenerationPlanMixin):
    """Generation of image tokens, for models whose forward pass runs over a [`~randar_hf.layout.Layout`] of slots."""

    def generate(
        self,
        class_labels: torch.Tensor | Sequence[int] | int,
        order: str | torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        *,
        speculative_window: int | None = None,
        guidance_power: float | None = None,
        known_tokens: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        grid_size: int | tuple[int, int] | None = None,
        rotary: torch.Tensor | None = None,
        spatial_guidance_scale: float = 1.0,
        spatial_dropout: float | torch.Tensor = 0.25,
        logits_processor: LogitsProcessorList | None = None,
        compile_config: CompileConfig | None = None,
        streamer: BaseStreamer | None = None,
        generation_config: RandARGenerationConfig | None = None,
    ) -> torch.Tensor:
        """
        Generate the tokens of a batch of images.

        Arguments that are `None` take their value from `generation_config`, by default the model's own.

        Args:
            class_labels (`torch.LongTensor` of shape (B,), `list[int]` or `int`): a class for each image;
                `config.num_classes` is the null class.
            order (`str` or `torch.LongTensor` of shape (N,) or (B, N), *optional*): name of an order, or a
                permutation of the raster positions: `order[b, i]` is decoded i-th.
            num_inference_steps (`int`, *optional*): steps, from 1 to N; at most one per unknown token is taken.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`
                (RAR's).
            do_sample (`bool`, *optional*): sample tokens, or take the most likely ones.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): 0 keeps all tokens.
            top_p (`float`, *optional*): in (0, 1].
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness. With a
                list, an image does not depend on what it is batched with.
            speculative_window (`int`, *optional*): lossless decoding: the tokens that `num_inference_steps=N` gives,
                in fewer passes, each of which asks for so many tokens, from 1 to N; not together with
                `num_inference_steps`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            known_tokens (`torch.LongTensor` of shape (B, N), *optional*): tokens in raster order to keep.
            known_mask (`torch.BoolTensor` of shape (B, N), *optional*): true where `known_tokens` is context: it is
                read in one pass and returned unchanged. Images may differ in how much they know.
            grid_size (`int` or `(int, int)`, *optional*): rows and columns to generate, if not the trained ones.
            rotary (`torch.Tensor` of shape (N + 1, d / 2, 2), *optional*): table of N positions of any kind instead of
                a grid, from [`~RandARModel.rotary_table_at`]; then `order` is `"random"`, `"raster"` or a tensor.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F), at least 0: away from what a
                sequence that drops some tokens predicts; 1 turns it off.
            spatial_dropout (`float` or `torch.BoolTensor` of shape (B, N)): fraction of the newly sampled tokens that
                this sequence drops, in [0, 1), or a mask of those that it drops.
            logits_processor (`LogitsProcessorList`, *optional*): called before temperature, top-k and top-p with the
                partial images (B * G, N), -1 where unknown, and the logits (B * G, V). With a speculative window the
                partial images hold guesses, too.
            compile_config (`CompileConfig`, *optional*): compile the forward pass with these arguments of
                `torch.compile`; passes are padded to at most three shapes and read the whole cache.
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
            speculative_window=speculative_window,
            known_tokens=known_tokens,
            known_mask=known_mask,
            grid_size=grid_size,
            rotary=rotary,
            spatial_guidance_scale=spatial_guidance_scale,
            spatial_dropout=spatial_dropout,
            logits_processor=logits_processor,
            compile_config=compile_config,
            generation_config=generation_config,
        )
        for state in states:
            tokens = state.tokens
            if streamer is not None:
                streamer.put(tokens.clone())  # its own, which it may change
        if streamer is not None:
            streamer.end()
        return tokens

    def generation_steps(
        self,
        class_labels: torch.Tensor | Sequence[int] | int,
        order: str | torch.Tensor | None = None,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        known_tokens: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        **settings: Any,
    ) -> Iterator[GenerationState]:
        """
        Generate step by step: an iterator over the states between steps, for progress, previews and callbacks.

        Takes the arguments of [`~RandARGenerationMixin.generate`] but the streamer, and checks them before it returns.
        Leaving the iterator early stops generation.

        Returns:
            iterator over [`GenerationState`], the first before any step; the last one's `tokens` are complete.
        """
        plan = self.plan_generation(class_labels, known_mask, order=order, **settings)
        return self.decode(plan, known_tokens, generator)

    def decode(
        self,
        plan: GenerationPlan,
        known_tokens: torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        order: torch.Tensor | None = None,
    ) -> Iterator[GenerationState]:
        """
        Carry out a plan: sample the random numbers, lay out the steps, and take them one after another.

        Args:
            plan ([`~randar_hf.generation_plan.GenerationPlan`]): from [`~GenerationPlanMixin.plan_generation`].
            known_tokens (`torch.LongTensor` of shape (B, N), *optional*): tokens in raster order; those under the
                plan's `known_mask` are kept. Where they lie on an accelerator, one outside the codebook is noticed
                while decoding, without waiting for it.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            order (`torch.LongTensor` of shape (N,) or (B, N), *optional*): instead of the plan's order.

        Returns:
            iterator over [`GenerationState`], the first before any step; the last one's `tokens` are complete.

        Raises:
            ValueError, TypeError: for any argument out of its range, before a random number is sampled.
        """
        tokens = check_known_tokens(known_tokens, plan.known_mask, plan.shape, self.config.vocab_size)
        check_generators(generator, plan.shape[0])
        order = plan.order if order is None else self.check_order(order, plan.shape, plan.grid)
        return self._decode(self._prepare(plan, tokens, generator, order))

    def _prepare(
        self, plan: GenerationPlan, tokens: torch.Tensor, generator: Any, order: torch.Tensor | None
    ) -> _Decoding:
        """Sample and lay out what the loop needs, and bring it to the model's device."""
        (batch_size, num_tokens), guidance, device = plan.shape, plan.guidance, execution_device(self)
        known = torch.zeros(plan.shape, dtype=torch.bool, device="cpu") if plan.known_mask is None else plan.known_mask
        if order is None:
            order = make_order(plan.settings.order, *plan.grid, batch_size, generator)
        order = known_first(order.to(known.device), known)
        seeds = image_seeds(batch_size, generator).to(device) if plan.settings.do_sample else None
        dropped = None  # (B, N), tokens that the sequence of spatial guidance drops
        if guidance.uses_spatial_guidance and isinstance(plan.spatial_dropout, torch.Tensor):
            dropped = plan.spatial_dropout
        elif guidance.uses_spatial_guidance:
            dropped = (uniform((num_tokens,), batch_size, generator) < plan.spatial_dropout).to(known.device) & ~known
        num_known = plan.num_known * plan.branches
        form, window = self.base_model.form, plan.settings.speculative_window
        schedule: PaperSchedule | SpeculativeSchedule
        if window is None:
            most_sizes = None if plan.compile_config is None else COMPILED_SIZES
            schedule = PaperSchedule(num_known, plan.group_sizes * plan.branches, num_tokens, form, device, most_sizes)
        else:
            schedule = SpeculativeSchedule(num_known, window, num_tokens, form, device)
        return _Decoding(
            plan=plan,
            class_labels=guidance.null_labels(plan.class_labels, self.config.num_classes).to(device),
            tokens=tokens.clamp(max=self.config.vocab_size - 1).to(device),
            has_wrong_tokens=is_outside(tokens, known, self.config.vocab_size).to(device),
            dropped=dropped if dropped is None else guidance.dropped_tokens(dropped.to(device)),
            num_known=torch.tensor(num_known, device=device)[:batch_size, None],
            order=order.to(device),
            schedule=schedule,
            positions=self.base_model.describe_positions(*plan.grid, device, plan.rotary),
            seeds=seeds,
            forward=self if plan.compile_config is None else self.get_compiled_call(plan.compile_config),
        )

    @torch.no_grad()
    def _decode(self, decoding: _Decoding) -> Iterator[GenerationState]:
        """The decode loop. After each pass the cache holds the sequence of final tokens as training lays it out."""
        plan, guidance, schedule = decoding.plan, decoding.plan.guidance, decoding.schedule
        batch_size, num_tokens = plan.shape
        cache = self._make_cache(decoding)
        # Index N is padding: it stands for no token, at position N, a column that is cut off again.
        order = torch.nn.functional.pad(decoding.order, (0, 1), value=num_tokens)  # (B, N + 1)
        ranks = decoding.order.argsort(dim=1)  # (B, N), index of the token at each position
        tokens, num_shown = decoding.tokens, decoding.num_known  # (B, N), (B, 1)
        ill, late = torch.zeros(3, dtype=torch.bool, device=tokens.device), LateFlags()
        state = GenerationState(-1, plan.num_steps, tokens, guidance.scale)
        yield state
        inputs = self.base_model.step_inputs(schedule.passes, decoding.class_labels, decoding.positions)
        for index, (step, step_inputs) in enumerate(zip(schedule, inputs)):
            check_scale(guidance, state.guidance_scale)
            is_shown = ranks < num_shown  # (B, N)
            tokens = torch.where(is_shown, state.tokens, tokens)
            is_wrong = ((state.tokens >= 0) & ~is_shown).any()
            if not decoding.is_compiled:
                cache.read_up_to(step.length)
            logits = self._predict(tokens, step, cache, decoding, step_inputs)  # (R, Q, V)
            logits = guidance.combine(logits, state.guidance_scale, step.known_fraction[:batch_size])  # (B, Q, V)
            asked = step.asked[:batch_size]  # (B, Q)
            positions = order.gather(1, asked)  # (B, Q)
            partial: Any = tokens.repeat_interleave(asked.shape[1], dim=0)  # (B * Q, N)
            scores = plan.processors(partial, logits.flatten(0, 1))
            sampled, highest = sample_tokens(scores.view_as(logits), decoding.seeds, positions)  # (B, Q) each
            padded = torch.nn.functional.pad(tokens, (0, 1))  # (B, N + 1)
            unchanged = (padded.gather(1, positions) == sampled).repeat(plan.branches, 1)  # (R, Q)
            tokens = padded.scatter(1, positions, sampled)[:, :num_tokens]
            num_shown = schedule.accept(step, unchanged)[:batch_size]
            shown = tokens.masked_fill(ranks >= num_shown, -1)
            is_ill = (~highest.isfinite() & (asked < num_tokens)).any()
            ill = ill | torch.stack([is_ill, is_wrong, decoding.has_wrong_tokens])
            has_ended, *found = late.read(torch.cat([(num_shown == num_tokens).all()[None], ill]))
            self._raise_if(found)
            state = GenerationState(index, state.num_steps, shown, state.guidance_scale)
            yield state
            if has_ended:
                break
        self._raise_if(late.read_last()[1:])

    def _make_cache(self, decoding: _Decoding) -> IndexedCache:
        """The cache of a run; for compiled passes its buffers are made ahead, since graphs keep their addresses."""
        config = self.config
        cache = IndexedCache(config.num_hidden_layers, sequence_length(decoding.plan.shape[1], self.base_model.form))
        if decoding.is_compiled:
            shape = len(decoding.class_labels), config.num_key_value_heads, config.head_dim
            cache.early_initialization(*shape, self.dtype, decoding.class_labels.device)
            for layer in cache.indexed_layers:
                torch._dynamo.mark_static_address(layer.keys)
                torch._dynamo.mark_static_address(layer.values)
        return cache

    def _predict(
        self,
        tokens: torch.Tensor,
        step: DecodingPass,
        cache: IndexedCache,
        decoding: _Decoding,
        step_inputs: dict[str, Any],
    ) -> torch.Tensor:
        """Logits (R, Q, V) of a pass, float32, given the tokens (B, N)."""
        branches = decoding.plan.branches
        input_ids = tokens.repeat(branches, 1)  # (R, N)
        if decoding.is_compiled:
            torch.compiler.cudagraph_mark_step_begin()
        with evaluation_mode(self):  # checkpointed layers would leave the cache empty
            outputs = decoding.forward(
                input_ids=input_ids if decoding.dropped is None else input_ids.masked_fill(decoding.dropped, -1),
                class_labels=decoding.class_labels,
                order=decoding.order.repeat(branches, 1),
                layout=step.layout,
                past_key_values=cache,
                **step_inputs,
            )
        return outputs.logits.to(torch.float32, copy=decoding.is_compiled)  # the next replay writes over its outputs

    def _raise_if(self, found: list[bool]):
        """Raise a `ValueError` for what the loop has noticed: logits that are not finite, tokens set where none is."""
        not_finite, changed_unknown, has_wrong_tokens = found or (False, False, False)
        if has_wrong_tokens:
            raise ValueError(
                f"`known_tokens` must lie between 0 and {self.config.vocab_size - 1} where `known_mask` is true."
            )
        if changed_unknown:
            raise ValueError(
                "`tokens` of a state may be replaced where they are decoded, got tokens at positions that are not."
            )
        if not_finite and not all(weight.isfinite().all() for weight in self.state_dict().values()):
            raise ValueError("`logits` must be finite, got NaN or infinity: the model's weights hold such numbers.")
        if not_finite:
            raise ValueError(
                f"`logits` must be finite, got NaN or infinity: `temperature`, `guidance_scale` or "
                f"`spatial_guidance_scale` is too extreme for {self.dtype}, or a logits processor leaves no token."
            )

    def adjust_generation_fn(
        self,
        generation_config: RandARGenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: str | None,
        pretrained_model_name_or_path: str | os.PathLike,
        cache_dir: str | os.PathLike | None,
        force_download: bool,
        proxies: dict[str, str] | None,
        local_files_only: bool,
        token: str | bool | None,
        revision: str | None,
        subfolder: str,
        trust_remote_code: bool | None,
        **kwargs: Any,
    ):
        """
        Called by `from_pretrained`: load the stored generation settings as this model's own kind of settings.

        Of the further arguments those that belong to the model's configuration come along, and are dropped.
        """
        if generation_config is not None:
            self.generation_config = copy.deepcopy(generation_config)
            return
        folder = find_settings(
            pretrained_model_name_or_path,
            subfolder,
            revision,
            cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        if folder is None:
            logger.info("No generation_config.json found: generation uses the defaults of the model's configuration.")
            return
        kwargs = {name: value for name, value in kwargs.items() if not hasattr(self.config, name)}
        self.generation_config = self.generation_config_class.from_pretrained(folder, **kwargs)


__all__ = ["GenerationState", "RandARGenerationMixin"]
