"""Pipelines for diffusers."""

from .code_export import save_with_code
from .pipeline_randar import RandARPipeline
from .pipeline_randar_extrapolation import RandARExtrapolationPipeline
from .pipeline_randar_inpaint import RandARInpaintPipeline
from .pipeline_randar_outpaint import RandAROutpaintPipeline
from .pipeline_rar import RARPipeline
from .preview import live_preview
from .registration import register_pipelines


register_pipelines()

__all__ = [
    "RARPipeline",
    "RandARExtrapolationPipeline",
    "RandARInpaintPipeline",
    "RandAROutpaintPipeline",
    "RandARPipeline",
    "live_preview",
    "save_with_code",
]
