"""The generation settings that lie beside a model's weights, in a folder or on the Hub."""

import os
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError


FILE = "generation_config.json"


def find_settings(
    name_or_path: str | os.PathLike | None,
    subfolder: str = "",
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    **download: Any,
) -> str | None:
    """
    The folder on this machine that holds a model's `generation_config.json`, downloaded if need be.

    Args:
        name_or_path (`str`, *optional*): a folder, or a repository on the Hub; `None` for a model that has neither.
        subfolder (`str`): where in it the model lies.
        revision (`str`, *optional*): branch, tag or commit of the repository.
        cache_dir (`str`, *optional*): where downloads are kept.
        **download: further arguments of `huggingface_hub.hf_hub_download`.

    Returns:
        `str`: the folder; `None` if there is no such file.

    Raises:
        OSError: if it cannot be told whether the repository has one: the connection broke off, or it is not in the
            cache of a machine that is offline.
    """
    if name_or_path is None:
        return None
    if os.path.isdir(name_or_path):
        folder = os.path.join(name_or_path, subfolder)
        return folder if os.path.isfile(os.path.join(folder, FILE)) else None
    where: dict[str, Any] = {"repo_id": str(name_or_path), "revision": revision, "cache_dir": cache_dir}
    try:
        return os.path.dirname(hf_hub_download(filename=FILE, subfolder=subfolder or None, **where, **download))
    except LocalEntryNotFoundError as error:
        if try_to_load_from_cache(filename=os.path.join(subfolder, FILE), **where) is _CACHED_NO_EXIST:
            return None
        raise OSError(
            f"`{FILE}` of {str(name_or_path)!r} is neither in the cache nor can it be downloaded: "
            f"connect to the Hub, or give `generation_config`. {error}"
        ) from error
    except EntryNotFoundError:
        return None
