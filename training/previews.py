"""Images drawn during training, through the pipeline that users have."""

import torch
from diffusers import VQModel
from diffusers.utils import make_image_grid
from PIL import Image

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.pipelines import RandARPipeline, RARPipeline


PIPELINES = {"randar": RandARPipeline, "rar": RARPipeline}
MAX_CLASSES = 10
ROWS = 4


def make_pipeline(model: RandARForCausalLM | RARForCausalLM, vqvae: VQModel) -> RandARPipeline | RARPipeline:
    """The pipeline of a model and its tokenizer, with the class names that training found in the data."""
    return PIPELINES[model.config.model_type](transformer=model, vqvae=vqvae, id2label=model.config.id2label)


def draw_preview(model: RandARForCausalLM | RARForCausalLM, vqvae: VQModel, seed: int) -> Image.Image:
    """An image grid: a column per class (the first ten), four images each, the same seeds every time."""
    pipeline = make_pipeline(model, vqvae)
    pipeline.set_progress_bar_config(disable=True)
    classes = min(model.config.num_classes, MAX_CLASSES)
    labels = list(range(classes)) * ROWS
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(labels))]
    images = pipeline(class_labels=labels, generator=generators).images
    return make_image_grid(images, rows=ROWS, cols=classes)
