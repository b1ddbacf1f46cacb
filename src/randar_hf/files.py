"""Files that appear whole or not at all, in folders that one process holds and that have no links in them."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from .outputs import check_output_folder


LOCK_FILE, PARTIAL = ".lock", ".partial"
LOCK_SECONDS = 10.0  # what loader processes of a killed run may take to notice, who share its lock


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """
    A file to write, which takes the name `path` at the end of the block and vanishes on an error.

    Until then its name is random, and it is opened exclusively: what was planted there is not written through.

    Raises an `OSError` that names the path, for example for a full disk.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{str(path)!r} cannot be written: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str):
    """Write a file of text by [`whole_file`]."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def clear_partial(folder: Path):
    """Remove the files that a killed process has left half written in a folder, which need not be there."""
    for path in folder.glob(f".*{PARTIAL}"):
        if not path.is_dir():
            path.unlink()


@contextmanager
def hold_folder(
    processes: Accelerator | PartialState, argument: str, folder: Path, check: Callable[[], None]
) -> Iterator[Path]:
    """
    Keep other processes out of a folder for the block; called on every one of those that share the work.

    The system frees the lock when a process dies. A folder that did not exist, and to which the block wrote nothing,
    is taken away again.

    Args:
        processes (`accelerate.Accelerator` or `PartialState`): sharing the work; the main one holds the folder.
        argument (`str`): what gives the folder, for messages.
        folder (`pathlib.Path`): made if it is not there.
        check (callable): called on the main process when it holds the folder; raises if it cannot be used.

    Raises:
        ValueError: as `check`, or another running process holds the folder, or it cannot be written.
    """
    refused: list[str | None] = [None]
    with ExitStack() as held:
        if processes.is_main_process:
            try:
                held.enter_context(_lock(argument, folder))
                check()
            except OSError as error:
                refused = [f"`{argument}` must be where one may write, got {str(folder)!r}: {error.strerror or error}"]
            except ValueError as error:
                refused = [str(error)]
        broadcast_object_list(refused)
        if refused[0] is not None:
            raise ValueError(refused[0])
        yield folder


@contextmanager
def _lock(argument: str, folder: Path) -> Iterator[None]:
    check_output_folder(argument, folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        message = f"`{argument}` must not be in use by another running process, got {str(folder)!r}"
        raise ValueError(message) from error
    try:
        clear_partial(folder)
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)  # who waits for it notices
        lock.release()
        for path in takewhile(_is_empty, made):
            path.rmdir()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


__all__ = ["clear_partial", "hold_folder", "whole_file", "write_text"]
