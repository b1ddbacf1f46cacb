"""Makes the pipelines known to diffusers, so that its own entry points load them without code from a repository."""

import logging

import diffusers
from diffusers.pipelines import auto_pipeline, pipeline_loading_utils

from .pipeline_randar import RandARPipeline
from .pipeline_randar_extrapolation import RandARExtrapolationPipeline
from .pipeline_randar_inpaint import RandARInpaintPipeline
from .pipeline_randar_outpaint import RandAROutpaintPipeline
from .pipeline_rar import RARPipeline


PIPELINES = (
    RandARPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
    RandARExtrapolationPipeline,
    RARPipeline,
)
# The classes of transformers that a pipeline's `transformer` may be, and how diffusers saves and loads them.
COMPONENTS = {name: ["save_pretrained", "from_pretrained"] for name in ("RandARPreTrainedModel", "RARPreTrainedModel")}


def register_pipelines():
    """Let `DiffusionPipeline` load these classes, and `AutoPipelineFor...` of diffusers the kinds that they know."""
    pipeline_loading_utils.LOADABLE_CLASSES["randar_hf"] = COMPONENTS
    pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(COMPONENTS)
    for pipeline in PIPELINES:
        setattr(diffusers, pipeline.__name__, pipeline)
    auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.update(randar=RandARPipeline, rar=RARPipeline)
    auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING.update(randar=RandARInpaintPipeline)
    logging.getLogger("diffusers.models.modeling_utils").addFilter(warns_of_modules)


def warns_of_modules(record: logging.LogRecord) -> bool:
    """False for the warning at each cast about modules that should be kept in float32, if it names none."""
    return "that should be kept in float32: []" not in record.getMessage()
