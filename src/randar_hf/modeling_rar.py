"""
RAR: a causal decoder that is trained on permuted images and annealed to one order (arXiv 2411.00776).

Shapes: B images, N image tokens of one image, S slots of one forward pass, D width, H heads, d head width, V codebook
entries.
"""

import copy
from collections.abc import Callable, Iterator
from itertools import repeat

import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from .cards import CardMixin
from .causal_lm import ImageCausalLMMixin
from .configuration_generation import RandARGenerationConfig
from .configuration_rar import RARConfig
from .devices import DeviceMapMixin
from .features import RandARFeatureMixin
from .frontier import DecodingPass
from .generation import RandARGenerationMixin
from .inputs import check_keywords, complete_inputs, drop_classes, find_context, read_slots
from .layout import Layout, SequenceForm, training_layout
from .linear import Linear, ZeroLinear
from .modeling_randar import eager_attention_forward
from .orders import make_order
from .packing import PackingMixin
from .resampling import RandARResamplingMixin


NUM_PREFIX_SLOTS = 2  # start and class, before the image tokens
# Published tables have rows that no sequence reaches; they are kept, so that files convert back as they were.
NUM_SPARE_POSITIONS, NUM_SPARE_STEPS = 1024, 100
MODULATION_ROWS = 64


class RARAttention(nn.Module):
    """Causal multi-head attention with normalised queries and keys."""

    def __init__(self, config: RARConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.o_proj = Linear(config.hidden_size, config.hidden_size)
        self.q_norm = nn.LayerNorm(self.head_dim, config.layer_norm_eps)
        self.k_norm = nn.LayerNorm(self.head_dim, config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache_slots: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        per_head = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states).view(per_head)).transpose(1, 2)  # (B, H, S, d)
        key = self.k_norm(self.k_proj(hidden_states).view(per_head)).transpose(1, 2)  # (B, H, S, d)
        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)  # (B, H, S, d)
        if past_key_values is not None:
            where = () if cache_slots is None else (cache_slots,)
            key, value = past_key_values.update(key, value, self.layer_idx, *where)  # (B, H, cached + S, d)

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


class RARMLP(nn.Module):
    """Feed-forward block with an exact GELU."""

    def __init__(self, config: RARConfig):
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.mlp_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dropout(nn.functional.gelu(self.fc1(hidden_states)))
        return self.dropout(self.fc2(hidden_states))


def modulate(hidden_states: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Adaptive layer norm after the norm: x (1 + scale) + shift, all of shape (B, S, D)."""
    return hidden_states * (1 + scale) + shift


class RARDecoderLayer(GradientCheckpointingLayer):
    """One pre-norm decoder layer, modulated by class and position in the sequence."""

    def __init__(self, config: RARConfig, layer_idx: int):
        super().__init__()
        self.self_attn = RARAttention(config, layer_idx)
        self.mlp = RARMLP(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.modulation = ZeroLinear(config.hidden_size, 6 * config.hidden_size)
        self.residual_dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self, hidden_states: torch.Tensor, condition: torch.Tensor, modulation: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        if modulation is None:
            modulation = self.modulation(condition)  # (B, S, 6 D)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        attended, _ = self.self_attn(modulate(self.input_layernorm(hidden_states), shift, scale), **kwargs)
        hidden_states = hidden_states + gate * self.residual_dropout(attended)
        transformed = self.mlp(modulate(self.post_attention_layernorm(hidden_states), mlp_shift, mlp_scale))
        return hidden_states + mlp_gate * transformed


class RARPreTrainedModel(CardMixin, DeviceMapMixin, RandARFeatureMixin, PackingMixin, PreTrainedModel):
    """Weights, capabilities and initialisation shared by the RAR models."""

    config: RARConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RARDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": RARDecoderLayer, "attentions": RARAttention}

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """The token embeddings, if nothing is given; raises a `ValueError` for a size, which they cannot take."""
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.base_model.embed_tokens
        raise ValueError(
            "`resize_token_embeddings` must not be called on a RAR, whose table holds the classes behind the "
            f"{self.config.vocab_size} codes: make a model of a RARConfig with another `vocab_size`."
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Each module initialises its own parameters alone: transformers skips modules that have none, and those whose
        # own were all loaded.
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, RARModel):
            init.zeros_(module.start_token)
            for table in (module.position_embeddings, module.target_embeddings, module.step_embeddings):
                if table is not None:
                    init.normal_(table, std=self.config.initializer_range)
        else:
            super()._init_weights(module)


class RARModel(RARPreTrainedModel):
    """
    The RAR decoder without a head.

    A sequence is `[start, class, x_0, x_1, ...]`. Each slot gets an embedding of where its token lies and, from the
    class on, one of where the next token goes (target-aware positional embedding). Class and position in the
    sequence modulate every layer.

    Args:
        config ([`RARConfig`]): sizes and grid.
    """

    def __init__(self, config: RARConfig):
        super().__init__(config)
        self.form = SequenceForm(merged=True, has_start=True)
        width, num_slots = config.hidden_size, NUM_PREFIX_SLOTS + config.num_tokens
        num_positions = num_slots if config.merged_positions else config.num_tokens + NUM_SPARE_POSITIONS
        # Codes, a mask token that nothing uses, classes, the null class.
        self.embed_tokens = nn.Embedding(config.vocab_size + config.num_classes + 2, width)
        self.start_token = nn.Parameter(torch.empty(width))
        self.position_embeddings = nn.Parameter(torch.empty(num_positions, width))
        self.target_embeddings = None if config.merged_positions else nn.Parameter(torch.empty(num_positions, width))
        self.step_embeddings = nn.Parameter(torch.empty(config.num_tokens + NUM_SPARE_STEPS, width))
        self.layers = nn.ModuleList([RARDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm_modulation = ZeroLinear(width, 2 * width)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        order: torch.Tensor | None = None,
        layout: Layout | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        num_layers: int | None = None,
        modulations: list[torch.Tensor] | None = None,
        dropped_classes: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """
        Run the decoder over slots of the sequence.

        Args:
            input_ids (`torch.LongTensor` of shape (B, N)): image tokens in raster order, -1 for one that is dropped:
                its slot keeps its place and carries nothing. Positions that no fed slot carries are not read.
            class_labels (`torch.LongTensor` of shape (B,), *optional*): classes; `config.num_classes`, the default,
                is the null class.
            order (`torch.LongTensor` of shape (N,) or (B, N), *optional*): the raster position of the i-th token of
                the sequence, a permutation; raster order by default. A model of merged positions takes
                `config.scan_order` alone.
            layout ([`Layout`], *optional*): the slots to compute; by default the sequence of training.
            attention_mask (`torch.BoolTensor` of shape (B, cached + S), *optional*): false for slots that are padding.
            past_key_values (`Cache`, *optional*): keys and values of the slots before.
            num_layers (`int`, *optional*): layers to run, all by default; after fewer, states are not normalised.
            modulations (list of `torch.Tensor`, *optional*): [`~RARModel.make_modulations`] of these slots.
            dropped_classes (`torch.BoolTensor` of shape (B,), *optional*): which images become null; by default, in
                training, a fraction of `config.class_dropout` is sampled.

        Returns:
            `BaseModelOutputWithPast` with `last_hidden_state` of shape (B, S, D).

        Raises:
            ValueError: if `input_ids` does not fill the grid, or `order` has another shape.
            TypeError: for a keyword that nothing takes.
        """
        check_keywords(kwargs)
        class_labels, order = complete_inputs(
            input_ids, class_labels, order, self.config.num_tokens, self.config.num_classes
        )
        fraction = self.config.class_dropout if self.training else 0.0
        class_labels = drop_classes(class_labels, dropped_classes, fraction, self.config.num_classes)
        if layout is None:
            layout = training_layout(self.config.num_tokens, self.form, input_ids.device)

        hidden_states = self.embed_slots(input_ids, class_labels, order, layout)  # (B, S, D)
        condition = self.embed_condition(class_labels, layout.carried)  # (B, S, D)
        mask, cache_slots = find_context(self.config, hidden_states, layout, attention_mask, past_key_values)
        for index, layer in enumerate(self.layers[:num_layers]):
            hidden_states = layer(
                hidden_states,
                condition,
                None if modulations is None else modulations[index],
                attention_mask=mask,
                past_key_values=past_key_values,
                cache_slots=cache_slots,
                **kwargs,
            )
        if num_layers in (None, len(self.layers)):
            modulation = self.norm_modulation(condition) if modulations is None else modulations[-1]  # (B, S, 2 D)
            hidden_states = self.final_norm(hidden_states, modulation)
        return BaseModelOutputWithPast(hidden_states, past_key_values)  # transformers 5.24 renames the second field

    def final_norm(self, hidden_states: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """The last states (B, S, D), normalised and modulated (B, S, 2 D) by scale and shift, not shift and scale."""
        scale, shift = modulation.chunk(2, dim=-1)
        normalised = nn.functional.layer_norm(hidden_states, hidden_states.shape[-1:], eps=self.config.layer_norm_eps)
        return modulate(normalised, shift, scale)

    def describe_positions(
        self, height: int, width: int, device: torch.device | str, rotary: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """What a forward pass is to be told of the positions of a grid: nothing, there is but the trained one."""
        return {}

    def step_inputs(
        self, passes: list[DecodingPass] | None, class_labels: torch.Tensor, positions: dict[str, torch.Tensor]
    ) -> Iterator[dict[str, list[torch.Tensor]]]:
        """
        What each pass of decoding takes beside tokens and slots: its modulations, made for several passes at once.

        The weights that make them are a third of the model. A pass of few images would be busy with reading them.
        Where passes are not known ahead, as in lossless decoding, the layers make their own.
        """
        if passes is None:
            yield from repeat({})
            return
        for block in _blocks(passes, MODULATION_ROWS // len(class_labels)):
            if len(block) == 1 or not self._is_on(class_labels.device):  # then the layers make their own, in turn
                yield from ({} for _ in block)
                continue
            carried = torch.cat([step.layout.carried for step in block], dim=1)  # (B, S of all passes)
            sizes = [step.layout.carried.shape[1] for step in block]
            parts = [modulation.split(sizes, dim=1) for modulation in self.make_modulations(class_labels, carried)]
            for modulations in zip(*parts, strict=True):
                yield {"modulations": list(modulations)}

    def _is_on(self, device: torch.device) -> bool:
        """Whether all weights are on a device; where they are offloaded, only a forward pass brings them there."""
        return all(weight.device == device for weight in self.parameters())

    def make_modulations(self, class_labels: torch.Tensor, carried: torch.Tensor) -> list[torch.Tensor]:
        """
        The modulations of all layers and of the last norm, for classes and slots.

        Args:
            class_labels (`torch.LongTensor` of shape (B,)): classes.
            carried (`torch.LongTensor` of shape (1, S) or (B, S)): what the slots carry, as in [`Layout`].

        Returns:
            list of `torch.Tensor`: of shape (B, S, 6 D) for each layer, and (B, S, 2 D).
        """
        condition = self.embed_condition(class_labels, carried)  # (B, S, D)
        return [layer.get_submodule("modulation")(condition) for layer in self.layers] + [
            self.norm_modulation(condition)
        ]

    def embed_slots(
        self, input_ids: torch.Tensor, class_labels: torch.Tensor, order: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        """Embeddings (B, S, D) of the slots of a layout."""
        carried, carried_positions, predicted_positions, ids = read_slots(input_ids, order, layout)  # (B, S) each
        num_tokens, slots = self.config.num_tokens, self._slots(carried)
        is_token, is_class = carried < num_tokens, carried == num_tokens
        ids = torch.where(is_class, self._class_ids(class_labels)[:, None], ids)
        embeddings = self.embed_tokens(ids.clamp(min=0)).masked_fill((ids < 0)[..., None], 0)  # (B, S, D)
        embeddings = torch.where((is_token | is_class)[..., None], embeddings, self.start_token)
        if self.target_embeddings is None:
            return embeddings + self.position_embeddings[slots]
        positions = torch.where(is_token, NUM_PREFIX_SLOTS + carried_positions, slots)
        targets = self.target_embeddings[NUM_PREFIX_SLOTS + predicted_positions]
        targets = targets.masked_fill((predicted_positions == num_tokens)[..., None], 0)
        return embeddings + self.position_embeddings[positions] + targets

    def embed_condition(self, class_labels: torch.Tensor, carried: torch.Tensor) -> torch.Tensor:
        """What modulates the slots, (B, S, D): class and position in the sequence, through the activation."""
        classes = self.embed_tokens(self._class_ids(class_labels))[:, None]  # (B, 1, D)
        return nn.functional.silu(classes + self.step_embeddings[self._slots(carried)])

    def _class_ids(self, class_labels: torch.Tensor) -> torch.Tensor:
        """Rows of the token embedding that hold the classes, behind the codes and the mask token."""
        return class_labels + self.config.vocab_size + 1

    def _slots(self, carried: torch.Tensor) -> torch.Tensor:
        """Positions in the sequence: 0 for start, 1 for the class (index N), from 2 on for tokens."""
        num_tokens = self.config.num_tokens
        return torch.where(carried < num_tokens, carried + NUM_PREFIX_SLOTS, num_tokens + 1 - carried)


# ImageCausalLMMixin: forward. RandARGenerationMixin: plan_generation, decode, generate, generation_steps.
# RandARResamplingMixin: refine and the log-likelihoods. RARPreTrainedModel: cards and extract_features.
class RARForCausalLM(ImageCausalLMMixin, RARPreTrainedModel, RandARGenerationMixin, RandARResamplingMixin):
    """
    The RAR decoder with a head over the image tokenizer's codebook; see [`RandARGenerationMixin.generate`].

    Args:
        config ([`RARConfig`]): sizes and grid.
    """

    generation_config_class = RandARGenerationConfig

    def __init__(self, config: RARConfig):
        super().__init__(config)
        self.model = RARModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @torch.no_grad()
    def merge_positions(self) -> "RARForCausalLM":
        """
        A copy whose two tables of positions are merged into one, as generation in one order allows.

        Slot s gets the sum of where its token lies and of where the next one goes. That is the same up to rounding;
        other orders are lost.

        Returns:
            `RARForCausalLM`: the copy, in evaluation mode.

        Raises:
            ValueError: if the positions are merged already, or the model was not annealed to a fixed order.
        """
        config = self.config
        if config.merged_positions:
            raise ValueError("`merge_positions` needs a model of two tables of positions, this one has them merged.")
        if config.random_ratio > 0 or config.fixed_order is None:
            raise ValueError(
                "`merge_positions` needs a model whose annealing has ended, since one table holds one order: this one "
                f"ended with `random_ratio` {config.random_ratio:.3g} and `scan_order` {config.scan_order!r}."
            )
        tensors = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        positions, targets = (tensors.pop(f"model.{name}_embeddings").float() for name in ("position", "target"))
        order = NUM_PREFIX_SLOTS + make_order(config.scan_order, *config.grid)[0].to(positions.device)  # (N,)
        merged = torch.cat([positions[:NUM_PREFIX_SLOTS], positions[order]])  # (N + 2, D)
        merged[1:] += targets[torch.cat([order, order[:1]])]  # a sequence read again goes on with its first token
        tensors["model.position_embeddings"] = merged.to(self.dtype)
        merged_config = RARConfig.from_dict({**config.to_dict(), "merged_positions": True})
        with torch.device("meta"):
            model = RARForCausalLM(merged_config)
        model.load_state_dict(tensors, assign=True)
        model.generation_config = copy.deepcopy(self.generation_config)
        return model.eval()


def _blocks(passes: list[DecodingPass], max_slots: int) -> Iterator[list[DecodingPass]]:
    """Passes in blocks of at most so many slots, at least one pass each."""
    block: list[DecodingPass] = []
    num_slots = 0
    for step in passes:
        size = step.layout.carried.shape[1]
        if block and num_slots + size > max_slots:
            yield block
            block, num_slots = [], 0
        block.append(step)
        num_slots += size
    yield block


__all__ = ["RARForCausalLM", "RARModel", "RARPreTrainedModel"]
