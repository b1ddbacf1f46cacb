"""Published checkpoints, read exactly, and written back."""

from .class_names import check_class_names, imagenet_classes, read_class_names
from .convert_llamagen import convert_llamagen
from .convert_llamagen_vq import convert_llamagen_vq
from .convert_maskgit_vq import convert_maskgit_vq
from .convert_randar import convert_randar
from .convert_rar import convert_rar
from .detection import convert_model, convert_tokenizer
from .pipeline_folders import convert_checkpoint
from .published_files import find_published
from .published_layouts import published_state_dict


__all__ = [
    "check_class_names",
    "convert_checkpoint",
    "convert_llamagen",
    "convert_llamagen_vq",
    "convert_maskgit_vq",
    "convert_model",
    "convert_randar",
    "convert_rar",
    "convert_tokenizer",
    "find_published",
    "imagenet_classes",
    "published_state_dict",
    "read_class_names",
]
