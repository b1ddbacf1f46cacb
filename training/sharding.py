"""Weights that processes share (FSDP2 of `accelerate`): what works with them, and the whole model of its parts."""

import copy

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from .training_config import TrainingConfig, model_class


UNSUPPORTED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def check_sharding(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Raise a `ValueError` if weights are shared in another way than FSDP2's, or a setting needs them whole."""
    if not accelerator.is_fsdp2:
        if accelerator.distributed_type in UNSUPPORTED:
            raise ValueError(
                "accelerate's `distributed_type` must be NO, MULTI_GPU or FSDP with `fsdp_version: 2`, got "
                f"{accelerator.distributed_type.value}"
            )
        return
    for name in ("ema_decay", "lora_rank"):
        if (value := getattr(config, name)) is not None:
            raise ValueError(f"`{name}` must be None where processes share the weights (FSDP), got {value}")
    if config.optimizer != "adamw":
        raise ValueError(
            f"`optimizer` must be 'adamw' where processes share the weights (FSDP), got {config.optimizer!r}"
        )


def gather_model(accelerator: Accelerator, model):
    """The whole model on the main process, None on the others; called on every process."""
    tensors = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return None
    with torch.device("meta"):
        whole = model_class(model.config.model_type)(model.config)
    whole.load_state_dict(tensors, assign=True)
    whole.generation_config = copy.deepcopy(model.generation_config)
    return whole.to(accelerator.device)


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be shared, as a plain one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
