"""
The two stages of an image on a finer grid: coarse tokens, then the cells between them.

Shapes: B images, h * w coarse tokens, H * W cells, M positions of both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from randar_hf.extrapolation import FinerGrid, finer_grid
from randar_hf.generation import GenerationState
from randar_hf.generation_plan import GenerationPlan
from randar_hf.modeling_randar import RandARForCausalLM
from randar_hf.orders import make_order
from randar_hf.randomness import uniform
from randar_hf.rotary import grid_positions


Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True, eq=False)
class Stages:
    """
    What is going to be generated on a finer grid.

    Attributes:
        grid (`(int, int)`): rows and columns of cells, H and W.
        finer ([`~randar_hf.extrapolation.FinerGrid`]): its positions.
        coarse ([`~randar_hf.generation_plan.GenerationPlan`]): of the coarse tokens, as at the trained resolution.
        fine ([`~randar_hf.generation_plan.GenerationPlan`]): of all positions, given the coarse tokens.
        cells ([`~randar_hf.generation_plan.GenerationPlan`]): of the cells alone, all at once.
        dropout_tokens (`str`): which tokens spatial guidance drops, `"all"` or exactly a fraction of the `"coarse"`.
    """

    grid: tuple[int, int]
    finer: FinerGrid
    coarse: GenerationPlan
    fine: GenerationPlan
    cells: GenerationPlan
    dropout_tokens: str

    @property
    def num_cells(self) -> int:
        return self.grid[0] * self.grid[1]

    def decode(self, model: RandARForCausalLM, hierarchical: bool, generator: Generators) -> Iterator[GenerationState]:
        """The states of generation, with the tokens (B, H * W) of the cells."""
        if hierarchical:
            return self._decode_coarse_first(model, generator)
        return model.decode(self.cells, generator=generator, order=self._order_cells(generator))

    def _decode_coarse_first(self, model: RandARForCausalLM, generator: Generators) -> Iterator[GenerationState]:
        num_fine = self.fine.num_steps
        for state in model.decode(self.coarse, generator=generator):
            positions = self._spread(state.tokens)  # (B, M)
            outer = GenerationState(
                state.step, state.num_steps + num_fine, positions[:, : self.num_cells], state.guidance_scale
            )
            yield outer
            state.guidance_scale = outer.guidance_scale
        if not num_fine:
            return
        fine = replace(self.fine, spatial_dropout=self._sample_dropped(generator))
        for state in model.decode(fine, positions.clamp(min=0), generator, self._order_positions(generator)):
            if state.step >= 0:
                tokens = state.tokens[:, : self.num_cells]
                outer = GenerationState(outer.step + 1, outer.num_steps, tokens, outer.guidance_scale)
                yield outer
            state.guidance_scale = outer.guidance_scale

    def _spread(self, coarse: torch.Tensor) -> torch.Tensor:
        """Coarse tokens (B, h * w) at their positions (B, M), -1 elsewhere."""
        positions = self.finer.coarse_positions.to(coarse.device).expand(len(coarse), -1)
        return coarse.new_full((len(coarse), len(self.finer.positions)), -1).scatter(1, positions, coarse)

    def _order_cells(self, generator: Generators) -> torch.Tensor:
        """The cells (B, H * W) in their order."""
        return make_order(self.coarse.settings.order, *self.grid, self.coarse.shape[0], generator)

    def _order_positions(self, generator: Generators) -> torch.Tensor:
        """The positions (B, M) in their order, those between cells at the end; they are all known."""
        between = torch.arange(self.num_cells, len(self.finer.positions), device="cpu").expand(
            self.coarse.shape[0], -1
        )
        return torch.cat([self._order_cells(generator), between], dim=1)

    def _sample_dropped(self, generator: Generators) -> torch.Tensor:
        """Which positions (B, M) the second sequence of spatial guidance drops."""
        fraction, (batch_size, num_positions) = self.fine.spatial_dropout, self.fine.shape
        chances = uniform((num_positions,), batch_size, generator)  # (B, M)
        if self.dropout_tokens == "all":
            return chances < fraction
        coarse = chances[:, self.finer.coarse_positions]  # (B, h * w)
        dropped = coarse.argsort(dim=1).argsort(dim=1) < int(fraction * coarse.shape[1])
        positions = self.finer.coarse_positions.expand(batch_size, -1)
        return torch.zeros_like(chances, dtype=torch.bool).scatter(1, positions, dropped)


def plan_stages(
    model: RandARForCausalLM,
    labels: list[int],
    grid: tuple[int, int],
    num_extrapolated: int,
    dropout_tokens: str,
    order: str | None,
    num_inference_steps: int | None,
    spatial: dict[str, Any],
    settings: dict[str, Any],
) -> Stages:
    """
    Plan the generation of a finer grid.

    Args:
        model ([`RandARForCausalLM`]): of any order and any grid.
        labels (`list[int]`): classes of the images.
        grid (`(int, int)`): rows and columns of cells.
        num_extrapolated (`int`): rotary frequencies that are not interpolated.
        dropout_tokens (`str`): see [`Stages`].
        order (`str`, *optional*): name of the order within the coarse grid and within the finer one.
        num_inference_steps (`int`, *optional*): steps for the coarse tokens; the others take as many for each.
        spatial (`dict`): `spatial_guidance_scale` and `spatial_dropout`, for all stages but the coarse one.
        settings (`dict`): further settings of [`~RandARGenerationMixin.generate`].

    Returns:
        [`Stages`]: the plans.

    Raises:
        ValueError: for any argument out of its range.
    """
    finer = finer_grid(model.config.grid, *grid)
    coarse = model.plan_generation(
        labels, grid_size=finer.coarse, order=order, num_inference_steps=num_inference_steps, **settings
    )
    num_cells, num_coarse, num_trained = grid[0] * grid[1], len(finer.coarse_positions), model.config.num_tokens
    window = coarse.settings.speculative_window
    known = torch.zeros(len(finer.positions), dtype=torch.bool, device="cpu")
    known[finer.coarse_positions] = True

    def plan(positions: torch.Tensor, steps: int, known: torch.Tensor | None = None) -> GenerationPlan:
        table = model.base_model.rotary_table_at(positions, finer.factor, num_extrapolated)
        pace: dict[str, Any] = {"num_inference_steps": steps} if window is None else {"speculative_window": window}
        # Random stands for the order that is sampled when it comes to that.
        return model.plan_generation(labels, known, rotary=table, order="random", **spatial, **settings | pace)

    def steps_for(num_tokens: int, num_native: int) -> int:
        """Steps for a number of tokens, as many for each as native ones take."""
        native = min(coarse.settings.num_inference_steps, num_native)
        return max(1, min(num_tokens, round(native * num_tokens / num_native)))

    num_open = int((~known[:num_cells]).sum())
    return Stages(
        grid=grid,
        finer=finer,
        coarse=coarse,
        fine=plan(finer.positions, steps_for(num_open, num_coarse), known.expand(len(labels), -1)),
        cells=plan(grid_positions(*grid), steps_for(num_cells, num_trained)),
        dropout_tokens=dropout_tokens,
    )
