"""Published checkpoints, read exactly."""

from .convert_llamagen import convert_llamagen
from .convert_llamagen_vq import convert_llamagen_vq
from .convert_maskgit_vq import convert_maskgit_vq
from .convert_randar import convert_randar


__all__ = ["convert_llamagen", "convert_llamagen_vq", "convert_maskgit_vq", "convert_randar"]
