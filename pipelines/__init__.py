"""Pipelines for diffusers."""

from diffusers.pipelines import pipeline_loading_utils

from .code_export import save_with_code
from .pipeline_randar import RandARPipeline
from .pipeline_randar_extrapolation import RandARExtrapolationPipeline
from .pipeline_randar_inpaint import RandARInpaintPipeline
from .pipeline_randar_outpaint import RandAROutpaintPipeline
from .pipeline_rar import RARPipeline


# diffusers loads the components of a Hub repository only from libraries on this list.
pipeline_loading_utils.LOADABLE_CLASSES["randar_hf"] = {
    "RandARPreTrainedModel": ["save_pretrained", "from_pretrained"],
    "RARPreTrainedModel": ["save_pretrained", "from_pretrained"],
}
pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(pipeline_loading_utils.LOADABLE_CLASSES["randar_hf"])

__all__ = [
    "RARPipeline",
    "RandARExtrapolationPipeline",
    "RandARInpaintPipeline",
    "RandAROutpaintPipeline",
    "RandARPipeline",
    "save_with_code",
]
