"""What the mixins of a model expect of the class that they are mixed into; it is there for type checkers alone."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn


if TYPE_CHECKING:

    class ModelHost(nn.Module):
        """A RandAR or RAR model of transformers."""

        config: Any  # RandARConfig or RARConfig
        generation_config: Any
        generation_config_class: Any
        base_model: Any  # RandARModel or RARModel
        model: Any
        lm_head: nn.Linear
        dtype: torch.dtype
        device: torch.device

        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any: ...

        def plan_generation(self, *args: Any, **kwargs: Any) -> Any: ...

        def decode(self, *args: Any, **kwargs: Any) -> Any: ...

        def get_compiled_call(self, compile_config: Any) -> Callable[..., Any]: ...

        def can_generate(self) -> bool: ...

        @property
        def is_packed(self) -> bool: ...

        def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int: ...

        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any: ...

        def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any: ...

else:
    ModelHost = object
