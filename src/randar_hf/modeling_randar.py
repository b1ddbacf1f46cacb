"""
RandAR: a causal decoder that generates image tokens in any order (arXiv 2412.01827).

Shapes: B images, N image tokens of one image, S slots of one forward pass, Q queries among them, D width, H heads,
d head width, V codebook entries.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from .cards import CardMixin
from .causal_lm import ImageCausalLMMixin
from .configuration_generation import RandARGenerationConfig
from .configuration_randar import RandARConfig
from .devices import DeviceMapMixin
from .features import RandARFeatureMixin
from .frontier import DecodingPass
from .generation import RandARGenerationMixin
from .inputs import check_keywords, complete_inputs, drop_classes, find_context, read_slots
from .layout import Layout, SequenceForm, training_layout
from .linear import Linear, ZeroLinear
from .packing import PackingMixin
from .resampling import RandARResamplingMixin
from .rotary import grid_positions, rotary_table_at, rotate


class RandARRMSNorm(nn.Module):
    """Root mean square normalisation in float32, cast back before the weight."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        states = hidden_states.float()
        states = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * states.to(hidden_states.dtype)


def eager_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; the reference of the other backends, and the one that returns its weights."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)  # (B, H, S_kv, d)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, S, S_kv)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class RandARAttention(nn.Module):
    """Causal multi-head attention with two-dimensional rotary positions."""

    def __init__(self, config: RandARConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        key_value_size = num_key_value_heads * self.head_dim
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = Linear(config.hidden_size, key_value_size, bias=False)
        self.v_proj = Linear(config.hidden_size, key_value_size, bias=False)
        self.o_proj = Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache_slots: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        per_head = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = rotate(self.q_proj(hidden_states).view(per_head), rotary).transpose(1, 2)  # (B, H, S, d)
        key = rotate(self.k_proj(hidden_states).view(per_head), rotary).transpose(1, 2)  # (B, H_kv, S, d)
        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)  # (B, H_kv, S, d)
        if past_key_values is not None:
            where = () if cache_slots is None else (cache_slots,)
            key, value = past_key_values.update(key, value, self.layer_idx, *where)  # (B, H_kv, cached + S, d)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.flatten(2)), weights


class RandARMLP(nn.Module):
    """SwiGLU feed-forward block."""

    def __init__(self, config: RandARConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN["silu"]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class RandARDecoderLayer(GradientCheckpointingLayer):
    """One pre-norm decoder layer."""

    def __init__(self, config: RandARConfig, layer_idx: int):
        super().__init__()
        self.self_attn = RandARAttention(config, layer_idx)
        self.mlp = RandARMLP(config)
        self.input_layernorm = RandARRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RandARRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.residual_dropout = nn.Dropout(config.residual_dropout)
        self.mlp_dropout = nn.Dropout(config.mlp_dropout)

    def forward(self, hidden_states: torch.Tensor, rotary: torch.Tensor, **kwargs) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), rotary, **kwargs)
        hidden_states = hidden_states + self.residual_dropout(attended)
        transformed = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + self.mlp_dropout(transformed)


class RandARPreTrainedModel(CardMixin, DeviceMapMixin, RandARFeatureMixin, PackingMixin, PreTrainedModel):
    """Weights, capabilities and initialisation shared by the RandAR models."""

    config: RandARConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RandARDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": RandARDecoderLayer, "attentions": RandARAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Each module initialises its own parameters alone: transformers skips modules that have none, and those whose
        # own were all loaded.
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, RandARModel) and module.position_instruction is not None:
            init.normal_(module.position_instruction, std=self.config.initializer_range)
        else:
            super()._init_weights(module)


class RandARModel(RandARPreTrainedModel):
    """
    The RandAR decoder without a head.

    Args:
        config ([`RandARConfig`]): sizes, grid and the kind of position instruction.
    """

    def __init__(self, config: RandARConfig):
        super().__init__(config)
        kind = config.position_instruction
        self.form = SequenceForm(merged=kind in ("merge", "none"))
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_classes = nn.Embedding(config.num_classes + 1, config.hidden_size)
        rows = {"rope": 1, "none": 0}.get(kind, config.num_tokens)
        self.position_instruction = nn.Parameter(torch.empty(rows, config.hidden_size)) if rows else None
        self.layers = nn.ModuleList([RandARDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = RandARRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        order: torch.Tensor | None = None,
        layout: Layout | None = None,
        rotary: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        num_layers: int | None = None,
        dropped_classes: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """
        Run the decoder over slots of the interleaved sequence of tokens and position instructions (Eq. 3).

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order, -1 for one that is dropped:
                its slot keeps its place and carries nothing. Positions that no fed slot carries are not read.
            class_labels (`torch.LongTensor` of shape (B,), *optional*): classes; `config.num_classes`, the default,
                is the null class.
            order (`torch.LongTensor` of shape (N,) or (B, N), *optional*): the raster position of the i-th token of
                the sequence, a permutation; raster order by default.
            layout ([`Layout`], *optional*): the slots to compute; by default the sequence of training.
            rotary (`torch.Tensor` of shape (N + 1, d / 2, 2), *optional*): the table of the positions, as
                [`~RandARModel.rotary_table`] makes it; by default that of the trained grid.
            attention_mask (`torch.BoolTensor` of shape (B, cached + S), *optional*): false for slots that are padding.
            past_key_values (`Cache`, *optional*): keys and values of the slots before.
            num_layers (`int`, *optional*): layers to run, all by default; after fewer, states are not normalised.
            dropped_classes (`torch.BoolTensor` of shape (B,), *optional*): which images become null; by default, in
                training, a fraction of `config.class_dropout` is sampled.

        Returns:
            `BaseModelOutputWithPast` with `last_hidden_state` of shape (B, S, D).

        Raises:
            ValueError: if `input_ids` does not fill the grid, or `order` has another shape.
            TypeError: for a keyword that nothing takes.
        """
        check_keywords(kwargs)
        if rotary is None:
            rotary = self.rotary_table(*self.config.grid, input_ids.device)
        num_tokens = len(rotary) - 1
        class_labels, order = complete_inputs(input_ids, class_labels, order, num_tokens, self.config.num_classes)
        fraction = self.config.class_dropout if self.training else 0.0
        class_labels = drop_classes(class_labels, dropped_classes, fraction, self.config.num_classes)
        if layout is None:
            layout = training_layout(num_tokens, self.form, input_ids.device)

        hidden_states, positions = self.embed_slots(input_ids, class_labels, order, layout, rotary)
        mask, cache_slots = find_context(self.config, hidden_states, layout, attention_mask, past_key_values)
        slot_rotary = rotary[positions].unsqueeze(2)  # (B, S, 1, d/2, 2)
        for layer in self.layers[:num_layers]:
            hidden_states = layer(
                hidden_states,
                slot_rotary,
                attention_mask=mask,
                past_key_values=past_key_values,
                cache_slots=cache_slots,
                **kwargs,
            )
        if num_layers in (None, len(self.layers)):
            hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithPast(hidden_states, past_key_values)  # transformers 5.24 renames the second field

    def rotary_table(self, height: int, width: int, device: torch.device | str) -> torch.Tensor:
        """The table of a grid for this model, of shape (height * width + 1, d / 2, 2)."""
        return self.rotary_table_at(grid_positions(height, width, device))

    def rotary_table_at(self, positions: torch.Tensor, factor: float = 1.0, num_extrapolated: int = 0) -> torch.Tensor:
        """The [`~randar_hf.rotary.rotary_table_at`] positions (N, 2) for this model, of shape (N + 1, d / 2, 2)."""
        return rotary_table_at(positions, self.config.head_dim, self.config.rope_theta, factor, num_extrapolated)

    def describe_positions(
        self, height: int, width: int, device: torch.device | str, rotary: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """What a forward pass is to be told of the positions of a grid, or of those of a table of one's own."""
        return {"rotary": self.rotary_table(height, width, device) if rotary is None else rotary.to(device)}

    def step_inputs(
        self, passes: list[DecodingPass] | None, class_labels: torch.Tensor, positions: dict[str, torch.Tensor]
    ) -> Iterator[dict[str, torch.Tensor]]:
        """What each pass of decoding takes beside tokens and slots: the positions, the same in every pass."""
        return repeat(positions)

    def embed_slots(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor,
        order: torch.Tensor,
        layout: Layout,
        rotary: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, S, D) of the slots of a layout and their rows (B, S) of the rotary table."""
        carried, carried_positions, predicted_positions, ids = read_slots(input_ids, order, layout)  # (B, S) each
        num_tokens = order.shape[1]
        tokens = self.embed_tokens(ids.clamp(min=0)).masked_fill((ids < 0)[..., None], 0)  # (B, S, D)
        tokens = nn.functional.dropout(tokens, self.config.token_dropout, self.training)
        classes = self.embed_classes(class_labels)[:, None]  # (B, 1, D)
        others = torch.where((carried == num_tokens)[..., None], classes, torch.zeros_like(classes))
        embeddings = torch.where((carried < num_tokens)[..., None], tokens, others)
        embeddings = embeddings + self.embed_instructions(predicted_positions, rotary)
        return embeddings, torch.where(carried > num_tokens, predicted_positions, carried_positions)

    def embed_instructions(self, positions: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor | float:
        """Position instructions (B, S, D) for the given positions (B, S), zero where the position is N (Eq. 5)."""
        if self.position_instruction is None:
            return 0.0
        if self.config.position_instruction == "rope":
            shared = self.position_instruction.view(1, 1, self.config.num_attention_heads, -1)  # (1, 1, H, d)
            return rotate(shared, rotary[positions].unsqueeze(2)).flatten(2)
        if len(rotary) - 1 != self.config.num_tokens:
            raise ValueError(
                f"A model with `position_instruction={self.config.position_instruction!r}` knows the "
                f"{self.config.num_tokens} positions of its trained grid alone, got a grid of {len(rotary) - 1}."
            )
        return nn.functional.pad(self.position_instruction, (0, 0, 0, 1))[positions]


# ImageCausalLMMixin: forward. RandARGenerationMixin: plan_generation, decode, generate, generation_steps.
# RandARResamplingMixin: refine and the log-likelihoods. RandARPreTrainedModel: cards and extract_features.
class RandARForCausalLM(ImageCausalLMMixin, RandARPreTrainedModel, RandARGenerationMixin, RandARResamplingMixin):
    """
    The RandAR decoder with a head over the image tokenizer's codebook; see [`RandARGenerationMixin.generate`].

    Args:
        config ([`RandARConfig`]): sizes, grid and the kind of position instruction.
    """

    generation_config_class = RandARGenerationConfig

    def __init__(self, config: RandARConfig):
        super().__init__(config)
        self.model = RandARModel(config)
        self.lm_head = ZeroLinear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


__all__ = ["RandARForCausalLM", "RandARModel", "RandARPreTrainedModel"]
