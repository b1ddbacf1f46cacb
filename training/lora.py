"""LoRA (arXiv 2106.09685): low-rank adapters beside frozen weights, by peft."""

import copy
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from randar_hf import RandARForCausalLM, RARForCausalLM

from .fine_tuning import CLASS_TABLES


ADAPTER_FOLDER = "adapter"


def add_adapter(model: RandARForCausalLM | RARForCausalLM, rank: int) -> PeftModel:
    """Freeze a model but for adapters of all linear maps of its layers, and for the embedding that holds its classes.

    Args:
        model: changed in place.
        rank: of the adapters; they are added with the weight 1.
    """
    modules = model.model.layers.named_modules()
    linear = {name.rpartition(".")[2] for name, module in modules if isinstance(module, nn.Linear)}
    table = CLASS_TABLES[model.config.model_type]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(linear), modules_to_save=[table])
    return get_peft_model(model, config)


def merge_adapter(model: PeftModel) -> RandARForCausalLM | RARForCausalLM:
    """A copy of the model inside whose weights hold what the adapters add."""
    return copy.deepcopy(model).merge_and_unload()


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapters and the embedding of the classes to a folder, for `PeftModel.from_pretrained`.

    The configuration of the model they belong to goes along: it holds the number of classes and their names.
    """
    model.save_pretrained(folder, save_embedding_layers=False)  # the automatic choice asks the Hub
    model.get_base_model().config.save_pretrained(folder)
