"""The forward pass of models with a head over the image tokenizer's codebook."""

import inspect
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .hosts import ModelHost
from .layout import Layout, take_queries, training_layout
from .loss import head_cross_entropy
from .orders import check_fixed_order


class ImageCausalLMMixin(ModelHost):
    """Prediction of image tokens, for models with a decoder `model` and a head `lm_head`."""

    # `loss` is a mean over the batch, which transformers' `Trainer` divides by the steps of gradient accumulation.
    accepts_loss_kwargs = False

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        order: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        layout: Layout | None = None,
        return_logits: bool = True,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """
        Predict tokens at the query slots; by default all tokens of the image, each from those before it in `order`.

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order.
            class_labels (`torch.LongTensor` of shape (B,), *optional*): classes; null by default.
            order (`torch.LongTensor` of shape (N,) or (B, N), *optional*): a permutation of the raster positions;
                raster order by default.
            labels (`torch.LongTensor` of shape (B, N), *optional*): the true tokens in raster order, usually
                `input_ids`; -100 is ignored; only with the default layout.
            layout ([`Layout`], *optional*): the slots to compute and which of them to predict from.
            return_logits (`bool`): false to compute the loss in blocks of rows, without keeping the logits, which take
                most of the memory of training with a large codebook; only with `labels`.
            **kwargs: further arguments of [`RandARModel.forward`], and `output_hidden_states`, `output_attentions`.

        Returns:
            `CausalLMOutputWithPast`: `logits` of shape (B, Q, V), where by default `logits[b, i]` predicts the token
            at raster position `order[b, i]`, `None` if they are not to be returned; `loss`, the mean cross-entropy in
            nats, if `labels` are given.

        Raises:
            ValueError: if `input_ids` does not fill the grid, for `labels` with a layout, or for neither `labels` nor
                `return_logits`.
        """
        if labels is None and not return_logits:
            raise ValueError(f"`return_logits` must be True without `labels`, got {return_logits!r}.")
        if labels is not None and layout is not None:
            raise ValueError("`labels` need the default layout, got both `labels` and `layout`.")
        if layout is None:
            layout = training_layout(input_ids.shape[-1], self.model.form, input_ids.device)
            # What is compiled or exported cannot ask for values.
            if order is not None and order.shape[-1] == self.config.num_tokens and not torch.compiler.is_compiling():
                check_fixed_order(order, self.config.only_order, *self.config.grid)
        outputs = self.model(input_ids, class_labels, order, layout, **kwargs)
        states = take_queries(outputs.last_hidden_state, layout)  # (B, Q, D)
        logits = self.lm_head(states) if return_logits else None  # (B, Q, V)

        loss = None
        if labels is not None:
            targets = labels if order is None else labels.gather(1, order.expand(labels.shape[0], -1))  # (B, N)
            if logits is not None:
                loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            else:
                loss = head_cross_entropy(
                    self.lm_head, states.flatten(0, 1), targets.flatten(), self.config.vocab_size
                )
        # By position: transformers 5.24 calls the cache by another name.
        return CausalLMOutputWithPast(
            loss, logits, kwargs.get("past_key_values"), outputs.hidden_states, outputs.attentions
        )


class _NoLabel(str):
    """A name in which transformers' `Trainer`, which takes what has "label" in its name for one, finds none."""

    def __contains__(self, part: object) -> bool:
        return False


_signature = inspect.signature(ImageCausalLMMixin.forward)
ImageCausalLMMixin.forward.__signature__ = _signature.replace(
    parameters=[
        parameter.replace(name=_NoLabel(name)) if name == "class_labels" else parameter
        for name, parameter in _signature.parameters.items()
    ]
)


__all__ = ["ImageCausalLMMixin"]
