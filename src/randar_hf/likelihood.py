"""Likelihood of images under any order. B images, N tokens of one image, V codebook entries, C classes, K orders."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn

from .checks import (
    check_class_labels,
    check_input_ids,
    check_int,
    check_labels_of,
    check_mask,
    check_positions,
)
from .devices import execution_device
from .hosts import ModelHost
from .layout import parallel_layout
from .modes import inference
from .orders import check_fixed_order, check_order, known_first, make_order
from .randomness import check_generators


def check_parts(num_parts: int | None, num_tokens: int) -> int:
    """Parts in which tokens are judged, by default 8 or as many as there are tokens."""
    return min(8, num_tokens) if num_parts is None else check_int("num_parts", num_parts, 2, num_tokens, " tokens")


class RandARLikelihoodMixin(ModelHost):
    """Log-likelihoods of image tokens, for models whose forward pass takes an order."""

    @inference
    def log_likelihood(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor,
        order: str | torch.Tensor | None = None,
        num_orders: int = 1,
        *,
        known_mask: torch.Tensor | None = None,
        grid_size: int | tuple[int, int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        per_token: bool = False,
    ) -> torch.Tensor:
        """
        How likely images are: log p(x | c) = sum_i log p(x_i | x_<i, c) in an order (Eq. 4), or its mean over several.

        Every order gives a true likelihood; their mean is a lower bound of the log of their mean.
        `-log_likelihood / (num_dimensions * log(2))` are bits per dimension.

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order.
            class_labels (`torch.LongTensor` of shape (B,)): classes; `config.num_classes` is the null class.
            order (`str` or `torch.LongTensor` of shape (N,) or (B, N), *optional*): name of an order, sampled anew for
                each of `num_orders`, or an order; by default random, or the order that the model generates in.
            num_orders (`int`): orders to average over, at least 1; 1 for an order given as a tensor.
            known_mask (`torch.BoolTensor` of shape (B, N), *optional*): tokens that are given: they come first, and
                the likelihood is that of the others given them.
            grid_size (`int` or `(int, int)`, *optional*): rows and columns, if not the trained ones.
            generator (`torch.Generator` or a list with one per image, *optional*): source of random orders.
            per_token (`bool`): return a number for each token instead of their sum.

        Returns:
            `torch.Tensor` of shape (B,), nats per image, or with `per_token` (B, N), nats per token in raster order, 0
            where known.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        height, width = check_positions(grid_size, None, self.config)
        input_ids, class_labels, known = self._check_images(input_ids, class_labels, known_mask, height * width)
        first, orders = self._orders(order, num_orders, height, width, len(input_ids), generator)
        only = self.config.only_order
        rule = f"`known_mask` must be true for the first tokens in the order {only!r} alone"
        check_fixed_order(known_first(first, known), only, height, width, rule)
        grid = (height, width)
        total = sum(
            (self._order_likelihood(input_ids, class_labels, ranks, known, grid) for ranks in orders),
            start=torch.zeros((), device=execution_device(self)),
        )
        mean = total / num_orders  # (B, N)
        return mean if per_token else mean.sum(dim=1)

    @inference
    def class_log_likelihoods(
        self,
        input_ids: torch.Tensor,
        class_labels: list[int] | torch.Tensor | None = None,
        num_orders: int = 1,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 64,
    ) -> torch.Tensor:
        """
        Log-likelihoods of images under several classes; the largest says which class an image is of, zero-shot.

        All classes of an image are judged in the same random orders, so that chance favours none.

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order.
            class_labels (`list[int]` or `torch.LongTensor` of shape (C,), *optional*): classes; all by default.
            num_orders (`int`): orders to average over, at least 1.
            generator (`torch.Generator` or a list with one per image, *optional*): source of random orders.
            batch_size (`int`): pairs of an image and a class that the model sees at once, at least 1.

        Returns:
            `torch.Tensor` of shape (B, C): nats per image; `argmax(dim=1)` is the index of the likeliest class.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        batch_size = check_int("batch_size", batch_size, 1)
        classes = check_class_labels(
            range(self.config.num_classes) if class_labels is None else class_labels, self.config.num_classes
        )
        input_ids, _, known = self._check_images(input_ids, None, None, self.config.num_tokens)
        grid = self.config.grid
        pairs = torch.cartesian_prod(torch.arange(len(input_ids), device="cpu"), classes).view(-1, 2)  # (B * C, 2)
        total = torch.zeros(len(pairs), device=input_ids.device)
        _, orders = self._orders(None, num_orders, grid[0], grid[1], len(input_ids), generator)
        for ranks in orders:
            sums = []
            for images, labels in zip(*(part.split(batch_size) for part in pairs.unbind(1)), strict=True):
                labels, images = labels.to(input_ids.device), images.to(input_ids.device)
                likelihood = self._order_likelihood(input_ids[images], labels, ranks[images], known[images], grid)
                sums.append(likelihood.sum(dim=1))
            total += torch.cat(sums)
        return (total / num_orders).view(len(input_ids), len(classes))

    def token_log_likelihoods(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor,
        num_parts: int | None = None,
        *,
        grid_size: int | tuple[int, int] | None = None,
        rotary: torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """
        How well each token of a finished image fits the others.

        The positions are split at random into parts; each token is judged given all tokens outside its part, in one
        pass for each part, as a decoding step predicts it. As many parts as tokens judge each token given all others.

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order.
            class_labels (`torch.LongTensor` of shape (B,)): classes; `config.num_classes` is the null class.
            num_parts (`int`, *optional*): parts, from 2 to N; by default 8, or N where there are fewer tokens.
            grid_size (`int` or `(int, int)`, *optional*): rows and columns, if not the trained ones.
            rotary (`torch.Tensor`, *optional*): table of positions of one's own, as for
                [`~RandARGenerationMixin.generate`].
            generator (`torch.Generator` or a list with one per image, *optional*): source of the parts.

        Returns:
            `torch.Tensor` of shape (B, N): nats per token, in raster order.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        height, width = check_positions(grid_size, rotary, self.config)
        input_ids, class_labels, _ = self._check_images(input_ids, class_labels, None, height * width)
        num_parts = check_parts(num_parts, height * width)
        return self._judge_tokens(input_ids, class_labels, num_parts, (height, width), rotary, generator)

    @inference
    def _judge_tokens(
        self, input_ids, class_labels, num_parts: int, grid: tuple[int, int], rotary, generator
    ) -> torch.Tensor:
        """What `token_log_likelihoods` gives for tokens and classes that are checked, and on the model's device."""
        (height, width), num_tokens = grid, input_ids.shape[1]
        if self.config.fixed_order is not None:
            raise ValueError(
                f"`token_log_likelihoods` and `refine` need a model of any order, such as RandARForCausalLM: this one "
                f"goes in the order {self.config.fixed_order!r} alone and knows no token from those behind it."
            )
        order = next(self._orders("random", 1, height, width, len(input_ids), generator)[1])
        scores = torch.zeros(input_ids.shape, device=input_ids.device)
        positions = self.base_model.describe_positions(height, width, input_ids.device, rotary)
        for part in order.tensor_split(num_parts, dim=1):  # (B, G)
            known = torch.ones_like(input_ids, dtype=torch.bool).scatter(1, part, False)
            ranks = known_first(order, known)
            group = part.shape[1]
            layout = parallel_layout(num_tokens, group, self.base_model.form, input_ids.device)
            logits = self(input_ids, class_labels, ranks, layout=layout, **positions).logits.float()  # (B, G, V)
            asked = ranks[:, -group:]
            found = -nn.functional.cross_entropy(logits.transpose(1, 2), input_ids.gather(1, asked), reduction="none")
            scores = scores.scatter(1, asked, found)
        return scores

    def _check_images(self, input_ids, class_labels, mask, num_tokens: int) -> list:
        """Tokens (B, N), classes (B,) and a mask (B, N), checked and on the model's device."""
        input_ids = check_input_ids(input_ids, num_tokens, self.config.vocab_size)
        class_labels = check_labels_of(class_labels, len(input_ids), self.config.num_classes)
        mask = check_mask("known_mask", mask, input_ids.shape)
        return [tensor.to(execution_device(self)) for tensor in (input_ids, class_labels, mask)]

    def _orders(
        self, order, num_orders: int, height: int, width: int, batch_size: int, generator
    ) -> tuple[torch.Tensor, Iterator[torch.Tensor]]:
        """The first of the orders (B, N) to average over, and all of them, each sampled when its turn comes."""
        num_orders = check_int("num_orders", num_orders, 1)
        check_generators(generator, batch_size)
        if order is None:
            order = self.config.fixed_order or "random"
        orders: Iterator[torch.Tensor]
        if isinstance(order, str):
            orders = (make_order(order, height, width, batch_size, generator) for _ in range(num_orders))
        elif num_orders != 1:
            raise ValueError(f"`num_orders` must be 1 for an order given as a tensor, got {num_orders}.")
        else:
            orders = iter([check_order(order, height * width, batch_size)])
        first = next(orders)
        check_fixed_order(first, self.config.only_order, height, width)
        return first, (ranks.to(execution_device(self)) for ranks in chain([first], orders))

    def _order_likelihood(self, input_ids, class_labels, order, known, grid: tuple[int, int]) -> torch.Tensor:
        """Nats per token (B, N) in raster order, in one order (B, N); 0 where known."""
        order = known_first(order, known)
        positions = self.base_model.describe_positions(*grid, input_ids.device)
        logits = self(input_ids, class_labels, order, **positions).logits.float()  # (B, N, V)
        found = -nn.functional.cross_entropy(logits.transpose(1, 2), input_ids.gather(1, order), reduction="none")
        return torch.zeros_like(found).scatter(1, order, found).masked_fill(known, 0)


__all__ = ["RandARLikelihoodMixin"]
