"""What a pipeline's folder and its repository on the Hub hold beside weights: a model card, and a stub of code."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import DiffusionPipeline
from diffusers.utils.constants import TRANSFORMERS_COMPONENT_AUX_FILES
from huggingface_hub import ModelCard
from torch import nn

from randar_hf.cards import Origin, make_card, replace_generated_card
from randar_hf.outputs import check_no_links


if TYPE_CHECKING:

    class PipelineHost:
        """What the mixin expects of a pipeline; it is there for type checkers alone."""

        name_or_path: str | None
        image_processor: Any
        transformer: Any  # RandARForCausalLM or RARForCausalLM
        id2label: Any

        @property
        def components(self) -> dict[str, Any]: ...

        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any: ...

        def push_to_hub(self, repo_id: str, *args: Any, **kwargs: Any) -> Any: ...

        def _upload_folder(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any: ...

else:
    PipelineHost = object

FILES = ("README.md", "model_index.json", "pipeline.py")  # of a pipeline's folder, beside those of its components
# diffusers runs the `pipeline.py` of every local folder in one module, in which it wants one class: hence one name.
STUB = (
    '"""So that `DiffusionPipeline.from_pretrained(..., custom_pipeline="pipeline")` finds the class."""\n\n'
    "from randar_hf.pipelines import {name} as Pipeline\n"
)
# What diffusers is to fetch of a repository beside weights and configurations: for `transformer` it knows no more.
FETCHED = ("transformer/generation_config.json", "transformer/*.py")
TRANSFORMERS_COMPONENT_AUX_FILES.extend(name for name in FETCHED if name not in TRANSFORMERS_COMPONENT_AUX_FILES)


def check_no_adapter(pipeline: DiffusionPipeline):
    """Raise a `ValueError` that says how to merge it, if a component of a pipeline carries an adapter of peft."""
    for name, component in pipeline.components.items():
        modules = component.modules() if isinstance(component, nn.Module) else ()
        if any(type(module).__module__.split(".")[0] == "peft" for module in modules):
            raise ValueError(
                f"`{name}` must carry no adapter when its pipeline is saved, since the adapter would be saved without "
                "the weights below it: merge it by `peft`'s `merge_and_unload`, and make the pipeline of what "
                f"that returns, as in `PeftModel.from_pretrained({name}, adapter).merge_and_unload()`."
            )


class HubMixin(PipelineHost):
    """Gives a pipeline's folder its card and `pipeline.py`, wherever it is saved or pushed to."""

    def make_card(self, repo_id: str, origin: Origin | None = None, has_code: bool = False) -> ModelCard:
        """
        The model card of this pipeline.

        Args:
            repo_id (`str`): what `from_pretrained` is to be called with.
            origin ([`~randar_hf.cards.Origin`], *optional*): of published weights.
            has_code (`bool`): whether the code lies beside the weights.

        Returns:
            `huggingface_hub.ModelCard`: the card. A pipeline loaded from a folder keeps the card that lies there,
            unless that is a link or the code goes along.
        """
        if origin is None and not has_code and self.name_or_path:
            loaded_from = Path(self.name_or_path) / "README.md"
            if loaded_from.is_file() and not loaded_from.is_symlink():
                card = ModelCard.load(loaded_from)
                name, title = loaded_from.resolve().parent.name, repo_id.rstrip("/").split("/")[-1]
                text = card.text.replace(f"\n# {name}\n", f"\n# {title}\n", 1)
                card.text = text.replace(f'from_pretrained("{name}"', f'from_pretrained("{repo_id}"')
                return card
        config, factor = self.transformer.config, self.image_processor.config.vae_scale_factor
        name = self.id2label.get(0)
        return make_card(
            repo_id,
            config,
            self.transformer.generation_config,
            self.transformer.num_parameters(),
            pixels=(config.grid[0] * factor, config.grid[1] * factor),
            label=repr(name.split(",")[0]) if name else "0",
            origin=origin,
            has_code=has_code,
            examples=[each.split(",")[0] for each in list(self.id2label.values())[:3]],
            results=self.transformer.card_results,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        """
        Save as any `DiffusionPipeline`, and with it a model card and `pipeline.py`, where the folder has none.

        Raises a `ValueError` for a pipeline whose code lies beside its weights, which would not go along, and for one
        with an adapter in it: a folder holds whole weights. One for links in place of what it writes, too.
        """
        check_no_adapter(self)
        if type(self.transformer).__module__.startswith("diffusers_modules."):
            raise ValueError(
                "`save_pretrained` would leave the code behind that this pipeline was loaded with: copy its folder, "
                "or save it with `randar_hf.pipelines.save_with_code`."
            )
        folder = Path(save_directory)
        check_no_links("save_directory", *(folder / name for name in (*FILES, *self.components)))
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "pipeline.py").exists():
            (folder / "pipeline.py").write_text(STUB.format(name=type(self).__name__), encoding="utf-8")
        if not (folder / "README.md").exists():
            self.make_card(folder.resolve().name).save(folder / "README.md")
        super().save_pretrained(os.fspath(save_directory), *args, **kwargs)

    def push_to_hub(self, repo_id: str, *args, **kwargs):
        """Push as any `DiffusionPipeline`; raises what `save_pretrained` does, before a repository is made."""
        check_no_adapter(self)
        return super().push_to_hub(repo_id, *args, **kwargs)

    def _upload_folder(self, working_dir: str | os.PathLike, repo_id: str, *args, **kwargs):
        replace_generated_card(working_dir, lambda: self.make_card(repo_id))
        return super()._upload_folder(working_dir, repo_id, *args, **kwargs)
