"""Features of images from two passes of the sequence (Sec. 3.4.4). B images, N tokens of one image, D width."""

import torch

from .checks import check_input_ids, check_int, check_labels_of, check_positions
from .devices import execution_device
from .hosts import ModelHost
from .layout import repeated_layout, sequence_length
from .memory import check_memory
from .modes import inference
from .orders import check_fixed_order, check_order, make_order
from .randomness import check_generators


class RandARFeatureMixin(ModelHost):
    """Feature extraction, for models whose forward pass runs over a [`~randar_hf.layout.Layout`] of slots."""

    @inference
    def extract_features(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        layer: int = -1,
        rounds: int = 2,
        *,
        order: str | torch.Tensor | None = None,
        grid_size: int | tuple[int, int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        pooled: bool = False,
    ) -> torch.Tensor:
        """
        Features of images: hidden states at the position slots, after the sequence was read twice (Eq. 8).

        In the second round every slot sees the whole image, though attention is causal.

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order.
            class_labels (`torch.LongTensor` of shape (B,), *optional*): classes; the null class by default.
            layer (`int`): 0 are the embeddings, i the output of the i-th layer; -1, the last one, is normalised. The
                paper uses layer 24 of 36.
            rounds (`int`): how often the sequence is read, at least 1; features come from the last time.
            order (`str` or `torch.LongTensor` of shape (N,) or (B, N), *optional*): order of the sequence; by default
                random, or the order that the model generates in.
            grid_size (`int` or `(int, int)`, *optional*): rows and columns, if not the trained ones.
            generator (`torch.Generator` or a list with one per image, *optional*): source of a random order.
            pooled (`bool`): return the mean over the positions, one vector for each image.

        Returns:
            `torch.Tensor` of shape (B, N, D), in raster order, or (B, D) if `pooled`.

        Raises:
            ValueError: for any argument out of its range, before the model runs.
        """
        height, width = check_positions(grid_size, None, self.config)
        depth, device = self.config.num_hidden_layers, execution_device(self)
        input_ids = check_input_ids(input_ids, height * width, self.config.vocab_size).to(device)
        class_labels = check_labels_of(class_labels, len(input_ids), self.config.num_classes).to(device)
        layer, rounds = check_int("layer", layer, -depth - 1, depth), check_int("rounds", rounds, 1)
        num_states = len(input_ids) * sequence_length(rounds * height * width, self.base_model.form)
        num_bytes = num_states * self.config.hidden_size * self.dtype.itemsize
        check_memory(rounds * height * width, num_bytes, device, "`rounds`")
        check_generators(generator, len(input_ids))
        if order is None:
            order = self.config.fixed_order or "random"
        if isinstance(order, str):
            order = make_order(order, height, width, len(input_ids), generator)
        order = check_order(order, height * width, len(input_ids)).expand(len(input_ids), -1).to(device)  # (B, N)
        check_fixed_order(order, self.config.only_order, height, width)

        model = self.base_model
        layout = repeated_layout(height * width, rounds, model.form, device)
        states = model(
            input_ids,
            class_labels,
            order,
            layout,
            **model.describe_positions(height, width, device),
            num_layers=layer % (depth + 1),
        ).last_hidden_state[:, layout.queries]  # (B, N, D) in the sequence's order
        features = torch.zeros_like(states).scatter(1, order[..., None].expand_as(states), states)
        return features.mean(dim=1) if pooled else features


__all__ = ["RandARFeatureMixin"]
