"""Sampling tokens of a finished image again. B images, N tokens of one image."""

import math
from dataclasses import replace
from typing import Any

import torch

from .checks import check_int, check_mask, check_number, check_positions
from .likelihood import RandARLikelihoodMixin
from .randomness import check_generators


class RandARResamplingMixin(RandARLikelihoodMixin):
    """Revision of finished images, which a model of any order can do: tokens are sampled again given the others."""

    def refine(
        self,
        input_ids: torch.LongTensor,
        class_labels: torch.LongTensor,
        mask: torch.BoolTensor | None = None,
        share: float = 0.1,
        num_rounds: int = 1,
        *,
        known_mask: torch.BoolTensor | None = None,
        num_parts: int = 8,
        grid_size: int | tuple[int, int] | None = None,
        rotary: torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **settings: Any,
    ) -> torch.LongTensor:
        """
        Sample chosen tokens of finished images again, given the rest, for a number of rounds.

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order.
            class_labels (`torch.LongTensor` of shape (B,)): classes.
            mask (`torch.BoolTensor` of shape (B, N), *optional*): tokens to sample again in every round; by default
                the least likely given others ([`~RandARLikelihoodMixin.token_log_likelihoods`]), found anew each
                round.
            share (`float`): fraction of the tokens that is sampled again without a mask, in (0, 1].
            num_rounds (`int`): rounds, at least 0.
            known_mask (`torch.BoolTensor` of shape (B, N), *optional*): tokens that are never sampled again.
            num_parts (`int`): parts that the likelihood of tokens is judged in.
            grid_size, rotary: the positions, as for [`~RandARGenerationMixin.generate`].
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            **settings: of [`~RandARGenerationMixin.generate`], such as `num_inference_steps` and `guidance_scale`.

        Returns:
            `torch.LongTensor` of shape (B, N): tokens in raster order.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        share, num_rounds = check_number("share", share, "(0, 1]"), check_int("num_rounds", num_rounds, 0)
        height, width = check_positions(grid_size, rotary, self.config)
        input_ids, class_labels, again = self._check_images(input_ids, class_labels, mask, height * width, "mask")
        positions = {"grid_size": grid_size, "rotary": rotary}
        known = check_mask("known_mask", known_mask, input_ids.shape).to(input_ids.device)
        check_generators(generator, len(input_ids))
        plan = self.plan_generation(class_labels, known, **positions, **settings)
        # Rounded first: 0.07 * 100 is a little more than 7, and no eighth token is meant.
        counts = [math.ceil(round(unknown * share, 9)) for unknown in (~known).sum(dim=1).tolist()]
        count = torch.tensor(counts, device=known.device)[:, None]  # (B, 1)
        for _ in range(num_rounds):
            if mask is None:
                scores = self.token_log_likelihoods(
                    input_ids, class_labels, num_parts, **positions, generator=generator
                )  # (B, N)
                ranks = scores.masked_fill(known, torch.inf).argsort(dim=1).argsort(dim=1)  # the worst has rank 0
                again = ranks < count
            kept = (~again | known).cpu()
            *_, last = self.decode(replace(plan, known_mask=kept), input_ids, generator)
            input_ids = last.tokens
        return input_ids


__all__ = ["RandARResamplingMixin"]
