"""Where results are written, checked before any work: whatever the system has against a path is one `ValueError`."""

import os
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path


# Names by which a folder is known to hold a run, a model or a data set of tokens. Anything else that lies in a folder,
# such as a log, a broken link or what a system leaves there, does no harm and stays.
FILES_OF_RUNS = (
    "run.json",
    "model_index.json",
    "config.json",
    "checkpoint-*",
    "*.safetensors",
    "*.parquet",
    "images",
    "labels.txt",
    "samples.npz",
)


def files_of_runs(folder: Path, *names: str, broken: bool = False) -> list[Path]:
    """
    What lies in a folder that a run would write or overwrite.

    Args:
        folder (`pathlib.Path`): which need not exist.
        *names (`str`): patterns of what is asked for beside `FILES_OF_RUNS`.
        broken (`bool`): whether broken links count.
    """
    if not folder.is_dir():
        return []
    patterns = (*FILES_OF_RUNS, *names)
    found = (path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in patterns))
    return sorted(path for path in found if broken or path.exists())


def check_output_folder(name: str, folder: Path):
    """
    Raise a `ValueError` for a folder that cannot be made or written to.

    Args:
        name (`str`): the argument that gives it, for the message.
        folder (`pathlib.Path`): need not exist, nor those above it.
    """
    if _exists(name, folder) and not folder.is_dir():
        raise ValueError(f"`{name}` must be a folder, got the file {str(folder)!r}.")
    if folder.is_symlink() and not folder.exists():
        raise ValueError(f"`{name}` must be a folder, got the broken link {str(folder)!r}.")
    above = next(path for path in (folder, *folder.absolute().parents) if _exists(name, path))
    if not above.is_dir():
        raise ValueError(f"`{name}` must lie in a folder, got {str(folder)!r} in the file {str(above)!r}.")
    _check_writable(name, folder, above)


def check_no_links(argument: str, *paths: Path):
    """Raise a `ValueError` that names the argument for a link among paths or below: it would be written through."""
    below = (Path(root, name) for path in paths for root, *names in os.walk(path) for name in chain(*names))
    for path in chain(paths, below):
        if path.is_symlink():
            raise ValueError(f"`{argument}` must hold no links, which would be written through, got {str(path)!r}")


def check_replaced_folder(
    name: str, folder: Path, marker: str, overwrite: bool, sources: Iterable[str | os.PathLike], files: tuple[str, ...]
):
    """
    Raise a `ValueError` for a folder that cannot be written, is there and not to be replaced, or holds something else.

    Args:
        name (`str`): the argument that gives it, for the message.
        folder (`pathlib.Path`): need not exist.
        marker (`str`): the file by which a folder of the kind that is written is known.
        overwrite (`bool`): whether such a folder may be replaced.
        sources (`Iterable`): what is read, which must not lie in a folder that is replaced.
        files (`tuple[str, ...]`): what is written beside `FILES_OF_RUNS`.
    """
    check_output_folder(name, folder)
    if not files_of_runs(folder, *files):
        return
    if not overwrite:
        raise ValueError(f"`{name}` must be new unless it is to be overwritten, got {str(folder)!r}, which exists.")
    if not (folder / marker).is_file():
        raise ValueError(f"`{name}` must be a folder with {marker} to be replaced, got {str(folder)!r}.")
    for source in sources:
        if folder.resolve() in (Path(source).resolve(), *Path(source).resolve().parents):
            raise ValueError(
                f"`{name}` must not hold what is read, got {str(folder)!r}: {str(source)!r} would be lost."
            )


def check_output_file(name: str, path: str | os.PathLike, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    """
    The path of a file to write.

    Args:
        name (`str`): the argument that gives it, for the message.
        path (`str`): in a folder that exists.
        suffixes (`tuple[str, ...]`): one of which it ends in.
        overwrite (`bool`): whether it may exist.

    Raises:
        FileNotFoundError: if there is no folder for it.
        ValueError: if it cannot be written, or exists.
    """
    file = Path(path)
    exists = _exists(name, file)
    if file.is_dir():
        raise ValueError(f"`{name}` must be a file, got the folder {str(file)!r}.")
    if file.is_symlink() and not exists:
        raise ValueError(f"`{name}` must be a file, got the broken link {str(file)!r}.")
    if exists and not overwrite:
        raise ValueError(f"`{name}` {str(file)!r} exists; --overwrite replaces it.")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"`{name}` lies in the folder {str(file.parent)!r}, which does not exist.")
    if file.suffix.lower() not in suffixes:
        raise ValueError(f"`{name}` must end in {', '.join(suffixes)}, got {str(file)!r}.")
    if exists and not os.access(file, os.W_OK):
        raise ValueError(f"`{name}` must be a file that may be written, got {str(file)!r}.")
    _check_writable(name, file, file.parent)
    return file


def _exists(name: str, path: Path) -> bool:
    """Whether there is such a file or folder; raises a `ValueError` for a path that the system does not take."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ValueError(
            f"`{name}` must be a path that the system takes, got {str(path)!r}: {error.strerror}."
        ) from error
    return True


def _check_writable(name: str, path: Path, folder: Path):
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"`{name}` must be where one may write, got {str(path)!r}: {error.strerror}.") from error
