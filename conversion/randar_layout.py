"""What RandAR and LlamaGen checkpoints share: names, sizes, and the way to a `RandARForCausalLM`."""

import os
from collections.abc import Mapping

import torch

from randar_hf import RandARConfig, RandARForCausalLM

from .checkpoint_files import read_checkpoint
from .decoders import DecoderLayout
from .state_dicts import count, refuse_other_kinds, shape_of


PUBLISHED_HEAD_DIM = 64
OTHER_HEAD_DIMS = {3200: 100, 4096: 128}  # by width: LlamaGen's 3B and 7B

# The guidance that the authors found best: RandAR's by width and codes, LlamaGen's, which is constant, by width.
RANDAR_GUIDANCE, RANDAR_GUIDANCE_OF = 4.0, {(1024, 16384): 3.4}
LLAMAGEN_GUIDANCE, LLAMAGEN_GUIDANCE_OF = 2.0, {1280: 1.75, 1536: 1.75, 3200: 1.65}

RANDAR_LAYOUT = DecoderLayout(
    modules={
        "model.embed_tokens": "tok_embeddings",
        "model.embed_classes": "cls_embedding.embedding_table",
        "model.position_instruction": "pos_instruct_embeddings",
        "model.norm": "norm",
        "lm_head": "output",
    },
    in_layer={
        "self_attn.q_proj": "attention.wqkv",
        "self_attn.k_proj": "attention.wqkv",
        "self_attn.v_proj": "attention.wqkv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    },
    layers="layers",
)


def convert_decoder(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    converter: str,
    num_attention_heads: int | None,
    overrides: Mapping,
) -> RandARForCausalLM:
    """What [`convert_randar`] and [`convert_llamagen`] do; `converter`, the name of one of them, tells the kind."""
    tensors = read_checkpoint(checkpoint)
    _refuse_captions(tensors)
    refuse_other_kinds(tensors, converter)
    with torch.device("meta"):
        model = RandARForCausalLM(_read_config(tensors, num_attention_heads, overrides))
    RANDAR_LAYOUT.fill(model, tensors)
    _suit_generation(model)
    return model.eval()


def _suit_generation(model: RandARForCausalLM):
    """Set the defaults of `generate` to those that the authors found best for a model of this size."""
    config, generation = model.config, model.generation_config
    if config.position_instruction == "none":
        generation.guidance_scale = LLAMAGEN_GUIDANCE_OF.get(config.hidden_size, LLAMAGEN_GUIDANCE)
        generation.guidance_schedule = "constant"
    else:
        generation.guidance_scale = RANDAR_GUIDANCE_OF.get((config.hidden_size, config.vocab_size), RANDAR_GUIDANCE)


def _refuse_captions(tensors: Mapping[str, torch.Tensor]):
    for name in tensors:
        if name.startswith(("cls_embedding.cap_proj.", "cls_embedding.uncond_embedding")):
            raise ValueError(
                f"`checkpoint` must be a class-conditional model, got a text-conditional one, as {name!r} shows."
            )


def _read_config(tensors: Mapping[str, torch.Tensor], num_attention_heads: int | None, overrides) -> RandARConfig:
    vocab_size, hidden_size = shape_of(tensors, "tok_embeddings.weight", 2)
    class_rows, _ = shape_of(tensors, "cls_embedding.embedding_table.weight", 2)
    intermediate_size, _ = shape_of(tensors, "layers.0.feed_forward.w1.weight", 2)
    attention_rows, _ = shape_of(tensors, "layers.0.attention.wqkv.weight", 2)
    heads = num_attention_heads
    if heads is None:
        heads, rest = divmod(hidden_size, OTHER_HEAD_DIMS.get(hidden_size, PUBLISHED_HEAD_DIM))
        if rest:
            raise ValueError(
                f"`num_attention_heads` must be given for a `checkpoint` of the width {hidden_size}, which published "
                f"heads of {PUBLISHED_HEAD_DIM} do not divide."
            )
    key_value_heads = (attention_rows - hidden_size) * heads // (2 * hidden_size)
    if key_value_heads < 1 or heads % key_value_heads:
        key_value_heads = heads  # then the check of shapes names the tensor
    return RandARConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": count(tensors, "layers."),
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "num_classes": class_rows - 1,
            **overrides,
        }
    )
