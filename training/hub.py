"""The repository on the Hub that a trained model is pushed to."""

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi

from .failures import TrainingError


def prepare_repository(accelerator: Accelerator, name: str) -> None:
    """Make sure that there is a repository that can be pushed to; called on every process.

    Raises:
        ValueError: the name is none, the Hub cannot be reached, or no token gives the right to write.
    """
    refused = [None]
    if accelerator.is_main_process:
        try:
            api = HfApi()
            repository = api.create_repo(name, exist_ok=True)
            api.auth_check(repository.repo_id, write=True)
        except Exception as error:  # the Hub's client has many, of several libraries
            refused = [_one_line(error)]
    broadcast_object_list(refused)
    if refused[0] is not None:
        raise ValueError(
            f"`push_to_hub` must be a repository on the Hub that can be written to, got {name!r}: {refused[0]}"
        )


def push(result, name: str, folder: Path) -> None:
    """Push a model or a pipeline, which was saved before, with its card.

    Args:
        result: what has a method `push_to_hub`.
        name: of the repository.
        folder: where it was saved.

    Raises:
        TrainingError: it could not be pushed.
    """
    try:
        result.push_to_hub(name)
    except Exception as error:
        raise TrainingError(
            f"`push_to_hub` must be a repository that takes the model, got {name!r}, which did not "
            f"({_one_line(error)}); the trained model lies in {str(folder)!r}: give the same command with "
            "`--resume latest` to try again"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).split()])
