"""RandAR checkpoints in the layout their authors published."""

import os
from collections.abc import Mapping

import torch
from safetensors.torch import load_file

from randar_hf import RandARConfig, RandARForCausalLM


PUBLISHED_HEAD_DIM = 64

RENAMED = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "cls_embedding.embedding_table.weight": "model.embed_classes.weight",
    "pos_instruct_embeddings": "model.position_instruction",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
RENAMED_IN_LAYER = {
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}


def convert_randar(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor], num_attention_heads: int | None = None, **overrides
) -> RandARForCausalLM:
    """
    Turn a published RandAR checkpoint into the same model for transformers, bit for bit.

    Args:
        checkpoint (`str` or mapping): path of a safetensors file, or the state dict itself.
        num_attention_heads (`int`, *optional*): attention heads, which no shape tells; by default heads are 64 wide,
            as in all published models.
        **overrides: fields of [`RandARConfig`]; what the shapes tell is read from them. `grid_size` is 16 by default.

    Returns:
        `RandARForCausalLM`: the model in evaluation mode, in the type of the checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the first tensor that is missing, unexpected or misshapen.
    """
    if not isinstance(checkpoint, Mapping):
        if not os.path.isfile(checkpoint):
            raise FileNotFoundError(f"`checkpoint` must be a file, found none at {os.fspath(checkpoint)!r}.")
        checkpoint = load_file(checkpoint)
    config = _read_config(checkpoint, num_attention_heads, overrides)
    renamed = _rename(checkpoint, config)
    with torch.device("meta"):
        model = RandARForCausalLM(config)
    _check_tensors(renamed, model.state_dict())
    model.load_state_dict(renamed, assign=True)
    return model.eval()


def _read_config(checkpoint: Mapping[str, torch.Tensor], num_attention_heads: int | None, overrides) -> RandARConfig:
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.items()}
    for name in (*RENAMED, "layers.0.attention.wqkv.weight", "layers.0.feed_forward.w1.weight"):
        if name not in shapes:
            raise ValueError(f"`checkpoint` is no RandAR model: the tensor {name!r} is missing.")
    vocab_size, hidden_size = shapes["tok_embeddings.weight"]
    heads = num_attention_heads or hidden_size // PUBLISHED_HEAD_DIM
    key_value_rows = (shapes["layers.0.attention.wqkv.weight"][0] - hidden_size) // 2
    return RandARConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "intermediate_size": shapes["layers.0.feed_forward.w1.weight"][0],
            "num_hidden_layers": len({name.split(".")[1] for name in shapes if name.startswith("layers.")}),
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_rows * heads // hidden_size,
            "num_classes": shapes["cls_embedding.embedding_table.weight"][0] - 1,
            **overrides,
        }
    )


def _rename(checkpoint: Mapping[str, torch.Tensor], config: RandARConfig) -> dict[str, torch.Tensor]:
    """The tensors under their names here; `wqkv` is cut into its three projections, without copying."""
    key_value_rows = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    renamed = {}
    for name, tensor in checkpoint.items():
        prefix, _, rest = name.removeprefix("layers.").partition(".")
        if name in RENAMED:
            renamed[RENAMED[name]] = tensor
        elif name.startswith("layers.") and rest in RENAMED_IN_LAYER:
            renamed[f"model.layers.{prefix}.{RENAMED_IN_LAYER[rest]}"] = tensor
        elif name.startswith("layers.") and rest == "attention.wqkv.weight":
            rows = (config.hidden_size, key_value_rows, key_value_rows)
            if len(tensor) != sum(rows):
                raise ValueError(f"`checkpoint` has {len(tensor)} rows in {name!r}, expected {sum(rows)}.")
            for part, projection in zip(tensor.split(rows), ("q_proj", "k_proj", "v_proj"), strict=True):
                renamed[f"model.layers.{prefix}.self_attn.{projection}.weight"] = part
        else:
            raise ValueError(f"`checkpoint` has an unexpected tensor {name!r}.")
    return renamed


def _check_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]):
    for name, tensor in expected.items():
        if name not in found:
            raise ValueError(f"`checkpoint` lacks the tensor for {name!r}.")
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"`checkpoint` has the shape {tuple(found[name].shape)} for {name!r}, expected {tuple(tensor.shape)}."
            )
    for name in found:
        if name not in expected:
            raise ValueError(f"`checkpoint` has an unexpected tensor for {name!r}.")
