"""A folder that takes the place of another one as a whole, also where the process is killed."""

import ctypes
import glob
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError


HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextmanager
def replacing(output: Path, keep: bool = False) -> Iterator[Path]:
    """
    A new folder to write that takes the place of `output` at the end; on an error it vanishes and `output` stays.

    A kill leaves the old folder or the new one; where the system cannot exchange folders, the next call brings the old
    one back. What killed calls left beside `output` is cleared.

    Args:
        output (`pathlib.Path`): a folder, which need not be there.
        keep (`bool`): whether what lies in it stays in it, such as a log that is being written.

    Raises:
        ValueError: the folder cannot be written, or another process is writing it.
    """
    lock = FileLock(_beside(output, "lock"), timeout=0)
    try:
        with lock:
            folder, old = (_beside(output, f"{part}-{secrets.token_hex(8)}") for part in ("partial", "old"))
            try:
                _clear_leftovers(output)
                folder.mkdir()  # a new one: what has that name, be it a link, is an error
                yield folder
                if keep and output.exists():
                    shutil.copytree(output, folder, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
                _put(folder, output, old)
            finally:
                _remove(folder)
                _remove(old)
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise ValueError(f"`output` must not be written by another process, got {str(output)!r}, which is.") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(f"`output` must be writable, got {str(output)!r}, nothing is left: {error}") from error


def _beside(output: Path, part: str) -> Path:
    return output.with_name(f".{output.name}.{part}")


def _clear_leftovers(output: Path):
    """Remove what killed calls left, after an old folder went back to its place if nothing is there."""
    partial, old = (output.parent.glob(f".{glob.escape(output.name)}.{part}-*") for part in ("partial", "old"))
    for folder in sorted(old, key=lambda path: path.lstat().st_mtime, reverse=True):
        if output.exists():
            _remove(folder)
        else:
            folder.rename(output)
    for folder in partial:
        _remove(folder)


def _put(folder: Path, output: Path, old: Path):
    """Give a folder the name `output`; what had it is then named `folder` or `old`."""
    if not os.path.lexists(output):
        folder.rename(output)
    elif not _exchange(folder, output):
        output.rename(old)
        try:
            folder.rename(output)
        except OSError:
            old.rename(output)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and rename(HERE, os.fsencode(first), HERE, os.fsencode(second), EXCHANGE) == 0


def _remove(path: Path):
    """Remove a folder, or a link to one; it need not be there."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
