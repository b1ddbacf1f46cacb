"""Networks whose features are compared: FID's Inception, or any vision model of transformers."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import CacheNotFound, constants, hf_hub_download, scan_cache_dir
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .images import hash_file
from .inception import PUBLISHED_HASH, WEIGHTS_FILES, InceptionFeatures, check_images


MISSING_WEIGHTS = (
    "the weights of FID's Inception are not on this machine: give `weights` the path of "
    f"{WEIGHTS_FILES[0]} (release fid_weights of github.com/mseitzer/pytorch-fid) or the Hub name of a repository "
    "that holds it; or compare other features with `features`, the name of a vision model."
)


@dataclass
class PooledOutput:
    """Features of B images: `pool` (B, D), and `logits` (B, C) of a classifier, else `None`."""

    pool: torch.Tensor
    logits: torch.Tensor | None = None


class VisionModelFeatures(nn.Module):
    """
    Features of a vision model of transformers: its last hidden state, averaged over all positions.

    Args:
        model (`transformers.PreTrainedModel`): a vision model; a classifier has logits too.
        processor (`transformers.BaseImageProcessor`): scales and normalises images for it.
        name (`str`): what the results call it.
    """

    is_published = False  # as FID's network

    def __init__(self, model: nn.Module, processor, name: str):
        super().__init__()
        self.model, self.processor, self.name = model.eval().requires_grad_(False), processor, name
        self.sha256 = hash_weights(model)
        settings = processor.to_dict()
        kept = {key: settings[key] for key in ("size", "crop_size", "resample") if settings.get(key) is not None}
        self.resize_rule = f"{type(processor).__name__} {kept}"

    @classmethod
    def from_pretrained(cls, name: str) -> "VisionModelFeatures":
        """
        Load a model and its image processor from a folder or the Hub.

        Raises:
            ValueError: if there is no such model, or it is none for images.
        """
        try:
            config = AutoConfig.from_pretrained(name)
            is_classifier = any("ForImageClassification" in kind for kind in config.architectures or [])
            kind = AutoModelForImageClassification if is_classifier else AutoModel
            return cls(kind.from_pretrained(name), AutoImageProcessor.from_pretrained(name), os.fspath(name))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"`features` must be the folder or Hub name of a vision model with an image processor, got {name!r}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> PooledOutput:
        """Features of uint8 images (B, 3, H, W)."""
        inputs = self.processor(list(check_images(images)), return_tensors="pt").to(self.model.device)
        outputs = self.model(**inputs, output_hidden_states=True)
        states = outputs.hidden_states[-1]  # (B, positions, D) or (B, D, h, w)
        pool = states.mean(dim=(2, 3) if states.ndim == 4 else 1)  # (B, D)
        return PooledOutput(pool=pool.float(), logits=getattr(outputs, "logits", None))


def load_extractor(features: str | None = None, weights: str | os.PathLike | None = None) -> nn.Module:
    """
    The network whose features are compared.

    Args:
        features (`str`, *optional*): folder or Hub name of a vision model of transformers; by default FID's Inception.
        weights (`str`, *optional*): its weights: a file, or the name of a repository on the Hub that holds the
            published file; by default that file in the cache of torch.hub or of the Hub.

    Raises:
        FileNotFoundError: if the weights are nowhere.
        ValueError: for the weights of another network, or ones in the cache that are not the published ones.
    """
    if features is not None:
        if weights is not None:
            raise ValueError(f"`weights` must be None with `features`, since they are Inception's, got {weights!r}.")
        return VisionModelFeatures.from_pretrained(features)
    if weights is None:
        return InceptionFeatures.from_file(_find_cached_weights())
    path = Path(weights).expanduser()
    if path.is_file():
        return InceptionFeatures.from_file(path)
    return InceptionFeatures.from_file(_download_weights(os.fspath(weights)))


def _find_cached_weights() -> Path:
    paths = [Path(torch.hub.get_dir(), "checkpoints", name) for name in WEIGHTS_FILES]
    try:
        files = (
            file
            for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos
            for revision in repo.revisions
            for file in revision.files
        )
        paths += [file.file_path for file in files if file.file_name in WEIGHTS_FILES]
    except CacheNotFound:
        pass
    found = [path for path in paths if path.is_file()]
    if not found:
        raise FileNotFoundError(MISSING_WEIGHTS)
    for path in found:
        if hash_file(path).startswith(PUBLISHED_HASH):
            return path
    raise ValueError(
        f"`weights` must be given, got {str(found[0])!r} in the cache, which is not the published file (SHA-256 "
        f"{PUBLISHED_HASH}...) but {hash_file(found[0])[:8]}...; delete it, or name it to use it nonetheless."
    )


def _download_weights(name: str) -> Path:
    for file in WEIGHTS_FILES:
        try:
            return Path(hf_hub_download(name, file))
        except EntryNotFoundError:
            continue
        except HFValidationError:
            break
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            message = f"`weights` must be a file or on the Hub, got {name!r} ({type(error).__name__})"
            raise FileNotFoundError(f"{message}; {MISSING_WEIGHTS}") from error
    raise FileNotFoundError(f"`weights` must be a file or a repository with one, got {name!r}; {MISSING_WEIGHTS}")


def hash_weights(module: nn.Module) -> str:
    """SHA-256 of the weights of a module, by name."""
    digest = hashlib.sha256()
    add_weights(digest, module)
    return digest.hexdigest()


def add_weights(digest, module: nn.Module):
    """Add the weights of a module to a hash of `hashlib`, by name."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
