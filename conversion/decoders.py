"""What published decoders of image tokens share: other names, other shapes, and a strict way in and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from .state_dicts import check_tensors


@dataclass(frozen=True)
class DecoderLayout:
    """
    The layout that authors published their decoder in.

    Attributes:
        modules (`Mapping[str, str]`): published names by the names of modules and parameters here.
        in_layer (`Mapping[str, str]`): the same inside a layer; modules here that share a published name are the rows
            of one tensor, in this order.
        layers (`str`): what the published names of layers begin with.
        dimensions (`Mapping[str, int]`): dimensions of published tensors that have more than the one here, by
            published name; the additional ones come first and are of size one.
    """

    modules: Mapping[str, str]
    in_layer: Mapping[str, str]
    layers: str
    dimensions: Mapping[str, int] = field(default_factory=dict)

    def fill(self, model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]):
        """
        Give a model on the meta device the tensors of a checkpoint.

        Raises:
            ValueError: naming the first tensor that is missing, misshapen, no floating point tensor or unexpected.
        """
        targets, parts = model.state_dict(), self._parts(model)
        rows = {published: [len(targets[name]) for name in names] for published, names in parts.items()}
        shapes = {
            published: self._published_shape(published, (sum(rows[published]), *targets[names[0]].shape[1:]))
            for published, names in parts.items()
        }
        check_tensors(tensors, shapes)
        renamed = {}
        for published, names in parts.items():
            tensor = tensors[published].reshape(-1, *targets[names[0]].shape[1:])
            renamed.update(zip(names, tensor.split(rows[published]), strict=True))
        model.load_state_dict(renamed, assign=True)

    def tensors_of(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The tensors of a model by published name."""
        tensors, published = model.state_dict(), {}
        for name, names in self._parts(model).items():
            tensor = torch.cat([tensors[part] for part in names]) if len(names) > 1 else tensors[names[0]]
            published[name] = tensor.view(self._published_shape(name, tuple(tensor.shape)))
        return published

    def _parts(self, model: PreTrainedModel) -> dict[str, list[str]]:
        """Names here by published name."""
        parts = {}
        for name in model.state_dict():
            parts.setdefault(self._published_name(name), []).append(name)
        return parts

    def _published_name(self, name: str) -> str:
        if name in self.modules:
            return self.modules[name]
        module, _, ending = name.rpartition(".")
        if module in self.modules:
            return f"{self.modules[module]}.{ending}"
        layer, _, rest = module.removeprefix("model.layers.").partition(".")
        return f"{self.layers}.{layer}.{self.in_layer[rest]}.{ending}"

    def _published_shape(self, published: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * (self.dimensions.get(published, len(shape)) - len(shape)) + shape
