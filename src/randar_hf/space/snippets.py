"""The settings of a run as Python."""

from typing import Any


TEMPLATE = """{imports}

pipe = {pipeline}.from_pretrained({source})
images = pipe(
    {labels},
    num_images_per_prompt={count},
{settings}    generator=[torch.Generator().manual_seed(seed) for seed in range({seed}, {end})],
).images
"""


def write_snippet(
    pipeline: str, source: str | None, labels: list[int | str], count: int, seed: int, settings: dict[str, Any]
) -> str:
    """
    Python that makes the same images.

    Args:
        pipeline (`str`): name of the class.
        source (`str`, *optional*): folder or Hub name; `None` for the shipped model of RandAR.
        labels (`list`): class names or ids.
        count (`int`): images for each.
        seed (`int`): of the first image.
        settings (`dict`): further arguments of the call; those that are `None` do not appear.

    Returns:
        `str`: the code.
    """
    imports = ["import torch", "", f"from randar_hf.pipelines import {pipeline}"]
    if source is None:
        imports.insert(2, "from randar_hf import demo_checkpoint")
    lines = [f"    {name}={value!r},\n" for name, value in settings.items() if value is not None]
    return TEMPLATE.format(
        imports="\n".join(imports),
        pipeline=pipeline,
        source="demo_checkpoint()" if source is None else repr(source),
        labels=labels,
        count=count,
        settings="".join(lines),
        seed=seed,
        end=seed + len(labels) * count,
    )
