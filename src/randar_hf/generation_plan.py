"""What one call of generation will do, settled before anything is sampled or run. B images, N tokens of one image."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    CompileConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .cache import cache_bytes
from .checks import check_class_labels, check_mask, check_positions
from .configuration_generation import RandARGenerationConfig
from .devices import execution_device
from .guidance import Guidance, check_spatial_guidance
from .hosts import ModelHost
from .layout import sequence_length
from .memory import check_memory
from .orders import check_fixed_order, check_order, known_first, make_order
from .schedules import group_sizes


@dataclass(frozen=True, eq=False)
class GenerationPlan:
    """
    Every setting of one call, checked and with its default filled in; made by
    [`~GenerationPlanMixin.plan_generation`] and carried out by [`~RandARGenerationMixin.decode`].

    Attributes:
        class_labels (`torch.LongTensor` of shape (B,)): classes, on the CPU.
        grid (`(int, int)`): rows and columns; positions of one's own count as one row.
        settings ([`RandARGenerationConfig`]): all settings, its steps cut to the grid.
        guidance ([`~randar_hf.guidance.Guidance`]): the sequences that are decoded side by side.
        processors (`LogitsProcessorList`): the caller's, then temperature, top-k and top-p.
        known_mask (`torch.BoolTensor` of shape (B, N), *optional*): tokens that are context.
        num_known (`list[int]` of B): how many of them each image has.
        order (`torch.LongTensor` of shape (B, N), *optional*): the caller's; otherwise `settings.order` names one.
        rotary (`torch.Tensor` of shape (N + 1, d / 2, 2), *optional*): positions of one's own.
        spatial_dropout (`float` or `torch.BoolTensor` of shape (B, N)): what the sequence of spatial guidance drops.
        compile_config (`CompileConfig`, *optional*): how the passes are compiled.
    """

    class_labels: torch.Tensor
    grid: tuple[int, int]
    settings: RandARGenerationConfig
    guidance: Guidance
    processors: LogitsProcessorList
    num_known: list[int]
    known_mask: torch.Tensor | None = None
    order: torch.Tensor | None = None
    rotary: torch.Tensor | None = None
    spatial_dropout: float | torch.Tensor = 0.25
    compile_config: CompileConfig | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Images and tokens of an image, (B, N)."""
        return len(self.class_labels), self.grid[0] * self.grid[1]

    @property
    def branches(self) -> int:
        """Sequences for each image."""
        return self.guidance.branches

    @property
    def group_sizes(self) -> list[list[int]]:
        """For each image, how many tokens each step decodes; nothing where all are known."""
        counts = [self.shape[1] - known for known in self.num_known]
        steps = self.settings.num_inference_steps
        return [group_sizes(count, min(steps, count)) if count else [] for count in counts]

    @property
    def num_steps(self) -> int:
        """Steps that decoding takes; with a speculative window, at most, one for each unknown token."""
        if self.settings.speculative_window is None:
            return max(map(len, self.group_sizes))
        return self.shape[1] - min(self.num_known)


class GenerationPlanMixin(ModelHost):
    """Plans of generation, for models with a configuration of the grid and settings of generation."""

    def plan_generation(
        self,
        class_labels: torch.Tensor | Sequence[int] | int,
        known_mask: torch.Tensor | None = None,
        grid_size: int | tuple[int, int] | None = None,
        *,
        order: str | torch.Tensor | None = None,
        rotary: torch.Tensor | None = None,
        spatial_guidance_scale: float = 1.0,
        spatial_dropout: float | torch.Tensor = 0.25,
        logits_processor: LogitsProcessorList | None = None,
        compile_config: CompileConfig | None = None,
        generation_config: RandARGenerationConfig | None = None,
        **settings: Any,
    ) -> GenerationPlan:
        """
        Fill in every default and check every argument of a call of generation; nothing is sampled, nothing runs.

        Args:
            class_labels, known_mask, grid_size, order, rotary: as for [`~RandARGenerationMixin.generate`].
            spatial_guidance_scale, spatial_dropout: as for [`~RandARGenerationMixin.generate`].
            logits_processor, compile_config, generation_config: as for [`~RandARGenerationMixin.generate`].
            **settings: fields of [`RandARGenerationConfig`]; `None` takes the value of `generation_config`.

        Returns:
            [`GenerationPlan`]: for [`~RandARGenerationMixin.decode`].

        Raises:
            ValueError, TypeError: for any argument out of its range, before anything of the grid's size is made.
        """
        config = self._merge_settings(generation_config, order, settings)
        grid = check_positions(grid_size, rotary, self.config)
        class_labels = check_class_labels(class_labels, self.config.num_classes)
        shape = len(class_labels), grid[0] * grid[1]
        spatial_guidance_scale, spatial_dropout = check_spatial_guidance(
            spatial_guidance_scale, spatial_dropout, shape
        )
        guidance = Guidance(
            config.guidance_scale, config.guidance_schedule, spatial_guidance_scale, config.guidance_power
        )
        if compile_config is not None:
            self._check_compile_config(compile_config)
        num_known = [0] * shape[0]
        if known_mask is not None:
            known_mask = check_mask("known_mask", known_mask, shape).cpu()
            num_known = known_mask.sum(dim=1).tolist()
        self.check_memory(shape[0] * guidance.branches, shape[1], max(num_known))
        self._settle_steps(config, settings, shape[1])
        own = None if order is None or isinstance(order, str) else self.check_order(order, shape, grid)
        if own is None and rotary is not None and config.order not in ("random", "raster"):
            raise ValueError(
                f"`order` must be 'random', 'raster' or a tensor for positions of one's own, got {config.order!r}."
            )
        plan = GenerationPlan(
            class_labels=class_labels,
            grid=grid,
            settings=config,
            guidance=guidance,
            processors=_logits_processors(config, logits_processor),
            num_known=num_known,
            known_mask=known_mask,
            order=own,
            rotary=rotary,
            spatial_dropout=spatial_dropout,
            compile_config=compile_config,
        )
        self._check_fixed_order(plan)
        return plan

    def _check_compile_config(self, compile_config: CompileConfig):
        if not isinstance(compile_config, CompileConfig):
            raise TypeError(f"`compile_config` must be a CompileConfig of transformers, got {compile_config!r}.")
        if self.is_packed and compile_config.backend == "inductor":
            raise ValueError(
                "`compile_config` must have another backend than 'inductor' for packed weights, got 'inductor', which "
                "cannot read them: call `unpack_weights()` first."
            )

    def check_order(self, order: torch.Tensor, shape: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
        """An order (B, N) on the CPU; raises a `ValueError` for no permutation, or one that the model cannot take."""
        order = check_order(order, shape[1], shape[0]).cpu()
        check_fixed_order(order, self.config.fixed_order, *grid)
        return order

    def check_memory(self, num_sequences: int, num_tokens: int, num_known: int = 0, argument: str = "`grid_size`"):
        """
        Raise a `ValueError` if decoding would not fit into memory, before anything is made for it.

        Args:
            num_sequences (`int`): images times sequences of guidance.
            num_tokens (`int`): tokens of one image.
            num_known (`int`): tokens of one image that are read in one pass.
            argument (`str`): what gives the size, for the message.
        """
        config, form = self.config, self.base_model.form
        cache = cache_bytes(config, num_sequences, sequence_length(num_tokens, form) + 1, self.dtype)
        states = sequence_length(num_known, form) * (4 * config.hidden_size + 2 * config.intermediate_size)
        num_bytes = cache + num_sequences * states * self.dtype.itemsize
        check_memory(num_tokens, num_bytes, execution_device(self), argument)

    def _check_fixed_order(self, plan: GenerationPlan):
        """Raise a `ValueError` for an order by name or known tokens that a model of one order cannot take."""
        name = self.config.fixed_order
        if name is None:
            return
        if plan.order is None:
            check_fixed_order(plan.settings.order, name, *plan.grid)
        if plan.known_mask is not None:
            order = make_order(name, *plan.grid, plan.shape[0])
            rule = f"`known_mask` must be true for the first tokens in the order {name!r} alone"
            check_fixed_order(known_first(order, plan.known_mask), name, *plan.grid, rule)

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

    def _settle_steps(self, config: RandARGenerationConfig, asked: dict[str, Any], num_tokens: int):
        """Steps or a window for a grid: what the caller asks for must fit it, a stored default is cut to it."""
        steps, window = asked.get("num_inference_steps"), asked.get("speculative_window")
        if steps is not None and window is not None:
            raise ValueError(
                "`speculative_window` must come without `num_inference_steps`, which lossless decoding finds out, "
                f"got {window} and {steps}."
            )
        for name, count in (("num_inference_steps", steps), ("speculative_window", window)):
            if count is not None and count > num_tokens:
                raise ValueError(f"`{name}` must lie between 1 and {num_tokens} tokens, got {count}.")
        fixed_order = self.config.fixed_order
        if fixed_order is not None and steps not in (None, num_tokens):
            raise ValueError(
                f"`num_inference_steps` must equal the number of tokens for a model of the order {fixed_order!r} "
                f"alone, which decodes one after another: {num_tokens}, got {steps}; `speculative_window` takes fewer."
            )
        config.num_inference_steps = num_tokens if fixed_order else min(config.num_inference_steps, num_tokens)
        if steps is not None:
            config.speculative_window = None  # the caller's steps, not a stored window
        if config.speculative_window is not None:
            config.speculative_window = min(config.speculative_window, num_tokens)


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


__all__ = ["GenerationPlan", "GenerationPlanMixin"]
