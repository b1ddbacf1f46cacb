"""Sampling tokens of a finished image again. B images, N tokens of one image."""

import math
from dataclasses import replace
from typing import Any

import torch

from .checks import check_input_ids, check_int, check_labels_of, check_mask, check_number, check_positions
from .devices import execution_device
from .likelihood import RandARLikelihoodMixin, check_parts
from .randomness import check_generators


class RandARResamplingMixin(RandARLikelihoodMixin):
    """Revision of finished images, which a model of any order can do: tokens are sampled again given the others."""

    def refine(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor,
        mask: torch.Tensor | None = None,
        share: float = 0.1,
        num_rounds: int = 1,
        *,
        known_mask: torch.Tensor | None = None,
        num_parts: int | None = None,
        grid_size: int | tuple[int, int] | None = None,
        rotary: torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **settings: Any,
    ) -> torch.Tensor:
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
            num_parts (`int`, *optional*): parts that the likelihood of tokens is judged in, as for
                [`~RandARLikelihoodMixin.token_log_likelihoods`].
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
        shape, num_tokens, codes = (len(input_ids), height * width), height * width, self.config.vocab_size
        num_parts = check_parts(num_parts, num_tokens)
        input_ids = check_input_ids(input_ids, num_tokens, codes, wait=False)
        class_labels = check_labels_of(class_labels, len(input_ids), self.config.num_classes)
        again, known = check_mask("mask", mask, shape), check_mask("known_mask", known_mask, shape)
        check_generators(generator, len(input_ids))
        plan = self.plan_generation(class_labels, known, grid_size, rotary=rotary, **settings)
        if mask is None:
            # Rounded first: 0.07 * 100 is a little more than 7, and no eighth token is meant.
            counts = [math.ceil(round((num_tokens - known) * share, 9)) for known in plan.num_known]
        else:
            counts = (again.cpu() & ~plan.known_mask).sum(dim=1).tolist()
        # Which tokens they are is found out on the device; how many is all that the host has to know.
        plan = replace(plan, num_known=[num_tokens - count for count in counts])
        device = execution_device(self)
        input_ids, class_labels, again, known, count = (
            part.to(device)
            for part in (input_ids, class_labels, again, known, torch.tensor(counts, device="cpu")[:, None])
        )
        for _ in range(num_rounds):
            if mask is None:
                ids, grid = input_ids.clamp(0, codes - 1), (height, width)
                scores = self._judge_tokens(ids, class_labels, num_parts, grid, rotary, generator)  # (B, N)
                ranks = scores.masked_fill(known, torch.inf).argsort(dim=1).argsort(dim=1)  # the worst has rank 0
                again = ranks < count
            *_, last = self.decode(replace(plan, known_mask=~again | known), input_ids, generator)
            input_ids = last.tokens
        return input_ids


__all__ = ["RandARResamplingMixin"]
