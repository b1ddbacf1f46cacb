"""Model cards for the Hub."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_generation import RandARGenerationConfig
from .hosts import ModelHost
from .outputs import check_no_links, files_of_runs


RANDAR_CITATION = """@article{pang2024randar,
  title={RandAR: Decoder-only Autoregressive Visual Generation in Random Orders},
  author={Pang, Ziqi and Zhang, Tianyuan and Luan, Fujun and Man, Yunze and Tan, Hao and Zhang, Kai and Freeman, William T. and Wang, Yu-Xiong},
  journal={arXiv preprint arXiv:2412.01827},
  year={2024}
}"""  # noqa: E501
LLAMAGEN_CITATION = """@article{sun2024autoregressive,
  title={Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation},
  author={Sun, Peize and Jiang, Yi and Chen, Shoufa and Zhang, Shilong and Peng, Bingyue and Luo, Ping and Yuan, Zehuan},
  journal={arXiv preprint arXiv:2406.06525},
  year={2024}
}"""  # noqa: E501
RAR_CITATION = """@article{yu2024randomized,
  title={Randomized Autoregressive Visual Generation},
  author={Yu, Qihang and He, Ju and Deng, Xueqing and Shen, Xiaohui and Chen, Liang-Chieh},
  journal={arXiv preprint arXiv:2411.00776},
  year={2024}
}"""

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ kind }} with {{ "{:,}".format(parameters) }} parameters\
{% if generation %}: it generates images of {{ num_classes }} classes as
{% else %} without its head, for features of images of {{ num_classes }} classes as
{% endif -%}
{{ height }} x {{ width }} tokens{% if pixels %}, {{ pixels[1] }} x {{ pixels[0] }} pixels{% endif %}.
{% if origin %}
The weights are those of [{{ origin.repository }}](https://huggingface.co/{{ origin.repository }}), published by the
authors of [{{ origin.source.removeprefix("https://") }}]({{ origin.source }}), in another layout.
{% endif %}
## Use

{% if pixels -%}
Through `randar_hf`:

```python
from randar_hf.pipelines import {{ pipeline }}

pipe = {{ pipeline }}.from_pretrained("{{ repo_id }}"{{ trust }})
image = pipe({{ label }}).images[0]
```

{% if has_code -%}
Through diffusers, without anything else installed; the code beside the weights runs:

```python
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download

folder = snapshot_download("{{ repo_id }}")  # all of it, so that it loads without a connection from then on
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
image = pipe({{ label }}).images[0]
```
{%- else -%}
Through diffusers' own entry point:

```python
import randar_hf.pipelines  # registers the pipeline
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{{ repo_id }}")
image = pipe({{ label }}).images[0]
```
{%- endif %}

Its model alone, through transformers:
{%- else -%}
Through transformers:
{%- endif %}

```python
{% if not has_code %}import randar_hf  # registers the model
{% endif -%}
{% if generation -%}
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{{ repo_id }}"{{ subfolder }}{{ trust }})
tokens = model.generate([0])  # (1, {{ height * width }}), in raster order
{%- else -%}
from transformers import AutoModel

model = AutoModel.from_pretrained("{{ repo_id }}")
features = model.extract_features(tokens)  # (B, {{ height * width }}, {{ hidden_size }}) of tokens in raster order
{%- endif %}
```
{% if generation and not pixels %}
The tokens become an image through the tokenizer that the model was trained with, a `diffusers.VQModel`, by
`randar_hf.vq.decode_images`, or in a pipeline: `{{ pipeline }}(transformer=model, vqvae=tokenizer)`.
{% endif %}
## Details

| | |
| --- | --- |
| layers, width, heads | {{ layers }}, {{ hidden_size }}, {{ heads }} |
{% for name, value in details -%}
| {{ name }} | {{ value }} |
{% endfor -%}
| tokens | {{ height }} x {{ width }} of {{ vocab_size }} kinds |
{% if generation -%}
| generation by default | order {{ generation.order }}, \
{% if generation.speculative_window %}lossless decoding with a window of {{ generation.speculative_window }}\
{% else %}{{ generation.num_inference_steps }} steps{% endif %}, \
{{ generation.guidance_schedule }} guidance of {{ generation.guidance_scale }}\
{% if generation.guidance_schedule == "power_cosine" %} with the power {{ generation.guidance_power }}{% endif %}\
{% if generation.temperature != 1 %}, temperature {{ generation.temperature }}{% endif %} |
{% endif %}
## Results

{% if origin -%}
As its authors report them, for images of 256 x 256 pixels (50,000 of them, against ImageNet's training set):

| guidance | FID |{% if origin.inception_score %} Inception Score |{% endif %} source |
| --- | --- |{% if origin.inception_score %} --- |{% endif %} --- |
| {{ origin.guidance_scale }} | {{ origin.fid }} |{% if origin.inception_score %} {{ origin.inception_score }} |\
{% endif %} [authors' README]({{ origin.source }}) |

{{ origin.limits }}
{%- else -%}
{{ results or "None are reported on this card." }}
{%- endif %}

## Limits

It knows the {{ num_classes }} classes it was trained on and nothing else, and shows the prejudices and gaps of its
training images. Nothing on this card says how it does on other data.
{% if license %}
## Licence

{{ license }}{% if origin %}, as its authors' [repository]({{ origin.source }}) says{% endif %}.
{% endif %}
## Citation

```bibtex
{{ citation }}
```
"""


@dataclass(frozen=True)
class Family:
    """
    What the cards of one kind of model say.

    Attributes:
        kind (`str`): the kind, and its paper.
        tag (`str`): its tag on the Hub.
        citation (`str`): the paper in BibTeX.
        pipeline (`str`): the class of its pipeline.
    """

    kind: str
    tag: str
    citation: str
    pipeline: str


FAMILIES = {
    "randar": Family("A RandAR model (arXiv 2412.01827)", "randar", RANDAR_CITATION, "RandARPipeline"),
    "llamagen": Family("A LlamaGen model (arXiv 2406.06525)", "llamagen", LLAMAGEN_CITATION, "RandARPipeline"),
    "rar": Family("A RAR model (arXiv 2411.00776)", "rar", RAR_CITATION, "RARPipeline"),
}


@dataclass(frozen=True)
class Origin:
    """
    Where published weights come from, and what their authors report.

    Attributes:
        name (`str`): the authors' name of the model.
        repository (`str`): where the weights are, on the Hub.
        source (`str`): URL of the authors' code, whose README holds the figures.
        license (`str`): the Hub's identifier of the licence.
        dataset (`str`): the Hub's identifier of the training data.
        guidance_scale (`float`): guidance that the figures belong to.
        fid (`float`): Fréchet inception distance of 50,000 images.
        limits (`str`): what should be known about the figures.
        inception_score (`float`, *optional*): of the same images.
    """

    name: str
    repository: str
    source: str
    license: str
    dataset: str
    guidance_scale: float
    fid: float
    limits: str
    inception_score: float | None = None


def make_card(
    repo_id: str,
    config: PreTrainedConfig,
    generation_config: RandARGenerationConfig | None,
    num_parameters: int,
    pixels: tuple[int, int] | None = None,
    label: str = "0",
    origin: Origin | None = None,
    has_code: bool = False,
    examples: Sequence[str] = (),
    results: str | None = None,
) -> ModelCard:
    """
    The card of a model or, with `pixels`, of a pipeline.

    Args:
        repo_id (`str`): what `from_pretrained` is to be called with.
        config ([`RandARConfig`] or [`RARConfig`]): the model's configuration.
        generation_config ([`RandARGenerationConfig`]): its defaults of generation; `None` for a model without a head.
        num_parameters (`int`): its size.
        pixels (`(int, int)`, *optional*): height and width of the pipeline's images.
        label (`str`): a label for the example, as Python writes it.
        origin ([`Origin`], *optional*): of published weights.
        has_code (`bool`): whether the code lies beside the weights, so that `randar_hf` need not be installed.
        examples (`Sequence[str]`): class names for the widget of the Hub.
        results (`str`, *optional*): what was measured, of a model without an origin.

    Returns:
        `huggingface_hub.ModelCard`: the card, rendered.
    """
    family, details = _describe(config)
    height, width = config.grid
    title = origin.name if origin else repo_id.rstrip("/").split("/")[-1]
    data = ModelCardData(
        base_model=origin.repository if origin else _find_base_model(config),
        datasets=[origin.dataset] if origin else None,
        eval_results=_eval_results(origin) if origin else None,
        library_name="diffusers" if pixels else "transformers",
        license=origin.license if origin else None,
        model_name=title if origin else None,
        pipeline_tag="unconditional-image-generation" if generation_config else "image-feature-extraction",
        widget=[{"text": name} for name in examples] or None,
        tags=[family.tag, "autoregressive", "class-conditional", *(["image-generation"] if generation_config else [])],
    )
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        repo_id=repo_id,
        title=title,
        kind=family.kind,
        pipeline=family.pipeline,
        parameters=num_parameters,
        num_classes=config.num_classes,
        height=height,
        width=width,
        pixels=pixels,
        label=label,
        origin=origin,
        has_code=has_code,
        subfolder=', subfolder="transformer"' if pixels else "",
        trust=", trust_remote_code=True" if has_code else "",
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        details=details,
        vocab_size=config.vocab_size,
        generation=generation_config,
        citation=family.citation,
        results=results,
    )


def _find_base_model(config: PreTrainedConfig) -> str | None:
    """The repository on the Hub that a model was loaded or fine-tuned from; `None` for a folder or a fresh model."""
    name = config.name_or_path or ""
    is_repository = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not Path(name).exists()
    return name if is_repository else None


def _describe(config: PreTrainedConfig) -> tuple[Family, list[tuple[str, str]]]:
    """The family of a model, and the rows of details that only its family has."""
    if config.model_type == "rar":
        positions = "merged, so that no other order is left" if config.merged_positions else "of tokens and of targets"
        annealed = f", a fraction of {config.random_ratio:.3g} permuted" if config.random_ratio > 0 else ""
        return FAMILIES["rar"], [
            ("order at the end of training", f"{config.scan_order}{annealed}"),
            ("position embeddings", positions),
        ]
    family = FAMILIES["llamagen" if config.position_instruction == "none" else config.model_type]
    return family, [("position instruction", config.position_instruction)]


def _eval_results(origin: Origin) -> list[EvalResult]:
    metrics = {"fid": ("FID", origin.fid), "inception_score": ("Inception Score", origin.inception_score)}
    return [
        EvalResult(
            task_type="unconditional-image-generation",
            task_name="Class-conditional image generation",
            dataset_type=origin.dataset,
            dataset_name="ImageNet 256x256",
            metric_type=metric_type,
            metric_name=name,
            metric_value=value,
            source_name="the authors' README",
            source_url=origin.source,
        )
        for metric_type, (name, value) in metrics.items()
        if value is not None
    ]


def replace_generated_card(folder: str | os.PathLike, make: Callable[[], ModelCard]):
    """Put a card in the place of the one that transformers or diffusers write for a repository that has none."""
    path = Path(folder) / "README.md"
    if not path.exists() or "has been automatically generated" in path.read_text(encoding="utf-8"):
        make().save(path)


class CardMixin(ModelHost):
    """Gives a model's repository on the Hub its card, and keeps what is saved from being written through links."""

    card_results: str | None = None  # what its card tells of how it was made and what was measured

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any):
        """Save as any `PreTrainedModel`; raises a `ValueError` for links in place of what it writes."""
        found = files_of_runs(Path(save_directory), "*.json", "*.py", broken=True)
        check_no_links("save_directory", *(path for path in found if not path.is_dir()))
        super().save_pretrained(save_directory, *args, **kwargs)

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any):
        """Upload a model card of this model where the repository has none."""
        settings = self.generation_config if self.can_generate() else None
        values = (self.config, settings, self.num_parameters())
        replace_generated_card(working_dir, lambda: make_card(repo_id, *values, results=self.card_results))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


# diffusers looks for keywords in the signature
update_wrapper(CardMixin.save_pretrained, PreTrainedModel.save_pretrained, assigned=())
