"""Images of more pixels than the model was trained for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from randar_hf.checks import is_int
from randar_hf.extrapolation import FinerGrid, finer_grid, num_fitting_frequencies
from randar_hf.generation import GenerationState
from randar_hf.guidance import Guidance, check_spatial_guidance
from randar_hf.modeling_randar import RandARForCausalLM
from randar_hf.orders import ORDER_NAMES, make_order
from randar_hf.randomness import check_generators, uniform
from randar_hf.rotary import grid_positions

from .base import RandARBasePipeline


DROPOUT_TOKENS = ("all", "coarse")
SIZE = "the size by `height` and `width`"


class RandARExtrapolationPipeline(RandARBasePipeline):
    """
    Class-conditional images at a resolution above the trained one, without training (arXiv 2412.01827, Sec. 3.4.3).

    Args:
        transformer ([`RandARForCausalLM`]): predicts image tokens in any order.
        vqvae (`diffusers.VQModel`): turns tokens into images.
        id2label (`dict[int, str]`, *optional*): class names, so that labels can be given by name; names separated by
            commas are synonyms.
    """

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
        spatial_guidance_scale: float = 2.5,
        spatial_dropout: float = 0.25,
        spatial_dropout_tokens: str = "all",
        refine: int = 0,
        refine_share: float = 0.1,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
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
                neighbours instead of being interpolated; by default those that turn at least once within the trained
                grid, which are 2 of 16 in the published models.
            num_images_per_prompt (`int`): images for each label.
            num_inference_steps (`int`, *optional*): steps for the coarse tokens; the others take as many for each.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are drawn; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this share are drawn, in (0, 1].
            order (`str`, *optional*): name of a decoding order, taken within the coarse grid and within the finer one.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F) while the finer cells are filled, at
                least 0; 1 turns it off. The coarse tokens are generated without.
            spatial_dropout (`float`): share of the tokens that its second sequence lacks, in [0, 1).
            spatial_dropout_tokens (`str`): `"all"`, each token by chance; `"coarse"`, exactly this share of the coarse
                tokens and no other, as in the authors' program, where it is 0.5.
            refine (`int`): rounds in which the least likely tokens are drawn again, given the others; 0 for none.
            refine_share (`float`): share of the tokens that a round draws again, in (0, 1].
            output_type (`str`): `"pil"`, `"np"`, `"pt"`, or `"latent"` for tokens (B, N) in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step; tokens are (B, N) of the finer grid, -1 where unknown; changing them changes nothing.
                Setting `pipe._interrupt = True` stops.
            callback_on_step_end_tensor_inputs (`list[str]`): what the callback gets, of `["latents"]`.

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
        labels = [label for label in self.get_label_ids(class_labels) for _ in range(num_images_per_prompt)]
        check_generators(generator, len(labels))
        grid = self._check_grid(height, width, default_factor=2)
        scale = self.transformer.generation_config.guidance_scale if guidance_scale is None else guidance_scale
        sequences = len(labels) * Guidance(scale, "constant", spatial_guidance_scale).branches
        self.transformer.check_memory(sequences, grid[0] * grid[1], argument=SIZE)
        finer = finer_grid(self.transformer.config.grid, *grid)
        check_choices(order, num_extrapolated, spatial_dropout_tokens)
        check_spatial_guidance(spatial_guidance_scale, spatial_dropout, (len(labels), len(finer.positions)))
        self.transformer.check_memory(sequences, len(finer.positions), len(finer.coarse_places), SIZE)
        settings = {
            "guidance_scale": guidance_scale,
            "guidance_schedule": guidance_schedule,
            "guidance_power": guidance_power,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "generator": generator,
        }
        spatial = {"spatial_guidance_scale": spatial_guidance_scale, "spatial_dropout": spatial_dropout}
        if num_extrapolated is None:
            num_extrapolated = self._num_fitting()
        stages = _Stages(self.transformer, labels, grid, finer, num_extrapolated, order, settings)
        if hierarchical:
            states = stages.coarse_first(num_inference_steps, spatial, spatial_dropout_tokens)
        else:
            states = stages.all_at_once(num_inference_steps, spatial)
        latents = self._run(states, callback_on_step_end, callback_on_step_end_tensor_inputs)
        if refine and not self._interrupt:
            latents = self.transformer.refine(
                latents, labels, share=refine_share, num_rounds=refine, rotary=stages.cell_table(), **settings
            )
        return self._finish(latents, grid, output_type, return_dict)

    def _num_fitting(self) -> int:
        """The rotary frequencies that turn at least once within the trained grid."""
        config = self.transformer.config
        head_dim = config.hidden_size // config.num_attention_heads
        return num_fitting_frequencies(min(config.grid), head_dim, config.rope_theta)


def check_choices(order: str | None, num_extrapolated: int | None, spatial_dropout_tokens: str):
    """Raise a `ValueError` for an order that has no name, a negative count, or an unknown kind of dropout."""
    if order is not None and order not in ORDER_NAMES:
        raise ValueError(f"`order` must be the name of an order, one of {', '.join(ORDER_NAMES)}, got {order!r}.")
    if num_extrapolated is not None and (not is_int(num_extrapolated) or num_extrapolated < 0):
        raise ValueError(f"`num_extrapolated` must be an int of at least 0, got {num_extrapolated!r}.")
    if spatial_dropout_tokens not in DROPOUT_TOKENS:
        raise ValueError(
            f"`spatial_dropout_tokens` must be one of {', '.join(DROPOUT_TOKENS)}, got {spatial_dropout_tokens!r}."
        )


@dataclass
class _Stages:
    """The decoding of a finer grid. B images, h * w coarse tokens, H * W cells, M places of both."""

    transformer: RandARForCausalLM
    labels: list[int]
    grid: tuple[int, int]  # (H, W)
    finer: FinerGrid
    num_extrapolated: int
    order: str | None
    settings: dict[str, Any]

    @property
    def num_cells(self) -> int:
        return self.grid[0] * self.grid[1]

    def cell_table(self) -> torch.Tensor:
        """Rotary table (H * W + 1, d / 2, 2) of the cells alone."""
        return self._table(grid_positions(*self.grid))

    def all_at_once(self, num_inference_steps: int | None, spatial: dict[str, float]) -> Iterator[GenerationState]:
        """All cells in one order, without coarse tokens."""
        trained = self.transformer.config.num_tokens
        return self.transformer.generation_steps(
            self.labels,
            self._cell_order(),
            num_inference_steps=self._steps_for(self.num_cells, num_inference_steps, trained),
            rotary=self.cell_table(),
            **spatial,
            **self.settings,
        )

    def coarse_first(
        self, num_inference_steps: int | None, spatial: dict[str, float], dropout_tokens: str
    ) -> Iterator[GenerationState]:
        """The coarse tokens as at the trained resolution, then the cells that they leave open."""
        first = self.transformer.generation_steps(
            self.labels,
            self.order,
            num_inference_steps=num_inference_steps,
            grid_size=self.finer.coarse,
            **self.settings,
        )
        steps = self._steps_for(self._num_open(), num_inference_steps, len(self.finer.coarse_places))
        return self._chain(first, steps, spatial, dropout_tokens)

    def _chain(
        self, first: Iterator[GenerationState], steps: int, spatial: dict[str, float], dropout_tokens: str
    ) -> Iterator[GenerationState]:
        """The states of both stages, as tokens (B, H * W) of the cells."""
        for state in first:
            outer = GenerationState(
                state.step, state.num_steps + steps, self._cells(state.tokens), state.guidance_scale
            )
            yield outer
            state.guidance_scale = outer.guidance_scale
        coarse_steps, scale = state.num_steps, state.guidance_scale
        if not self._num_open():
            return
        second = self.transformer.generation_steps(
            self.labels,
            num_inference_steps=steps,
            rotary=self._table(self.finer.positions),
            known_tokens=self._places(state.tokens).clamp(min=0),
            known_mask=self._places(state.tokens) >= 0,
            spatial_guidance_scale=spatial["spatial_guidance_scale"],
            spatial_dropout=self._left_out(spatial["spatial_dropout"], dropout_tokens),
            order=self._place_order(),
            **{**self.settings, "guidance_scale": scale},
        )
        for state in second:
            if state.step < 0:
                continue
            outer = GenerationState(
                coarse_steps + state.step,
                coarse_steps + state.num_steps,
                state.tokens[:, : self.num_cells],
                state.guidance_scale,
            )
            yield outer
            state.guidance_scale = outer.guidance_scale

    def _places(self, coarse: torch.LongTensor) -> torch.LongTensor:
        """Coarse tokens (B, h * w) at their places (B, M), -1 elsewhere."""
        places = self.finer.coarse_places.to(coarse.device).expand(len(coarse), -1)
        return coarse.new_full((len(coarse), len(self.finer.positions)), -1).scatter(1, places, coarse)

    def _cells(self, coarse: torch.LongTensor) -> torch.LongTensor:
        return self._places(coarse)[:, : self.num_cells]

    def _num_open(self) -> int:
        """Cells that hold no coarse token."""
        return self.num_cells - int((self.finer.coarse_places < self.num_cells).sum())

    def _steps_for(self, num_tokens: int, asked: int | None, native_tokens: int) -> int:
        """Steps for a number of tokens, as many for each as the native ones take."""
        steps = min(self.transformer.generation_config.num_inference_steps if asked is None else asked, native_tokens)
        return min(num_tokens, max(1, round(steps * num_tokens / native_tokens)))

    def _table(self, positions: torch.Tensor) -> torch.Tensor:
        return self.transformer.base_model.rotary_table_at(positions, self.finer.factor, self.num_extrapolated)

    def _cell_order(self) -> torch.LongTensor:
        """The cells (B, H * W) in their order."""
        name = self.order or self.transformer.generation_config.order
        return make_order(name, *self.grid, len(self.labels), self.settings["generator"])

    def _place_order(self) -> torch.LongTensor:
        """The places (B, M) in their order, those between cells at the end; they are all known."""
        between = torch.arange(self.num_cells, len(self.finer.positions)).expand(len(self.labels), -1)
        return torch.cat([self._cell_order(), between], dim=1)

    def _left_out(self, share: float, tokens: str) -> torch.BoolTensor:
        """Which places (B, M) the second sequence of spatial guidance lacks."""
        chances = uniform((len(self.finer.positions),), len(self.labels), self.settings["generator"])  # (B, M)
        if tokens == "all":
            return chances < share
        coarse = chances[:, self.finer.coarse_places]  # (B, h * w)
        dropped = coarse.argsort(dim=1).argsort(dim=1) < int(share * coarse.shape[1])
        places = self.finer.coarse_places.expand(len(self.labels), -1)
        return torch.zeros_like(chances, dtype=torch.bool).scatter(1, places, dropped)
