"""What a run says when it cannot go on: one line with the cause, what to do, and the last good checkpoint."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from accelerate.utils.memory import should_reduce_batch_size


class TrainingError(ValueError):
    """A run that cannot go on; what it saved before is intact."""


@contextmanager
def explain_failures(
    output_dir: str, batch_size: int, remedy: str, last_checkpoint: Callable[[], str]
) -> Iterator[None]:
    """Make errors of memory and of the disk a `TrainingError`, and let its message end with the last checkpoint.

    Args:
        output_dir: where the run writes to.
        batch_size: images per forward pass and process.
        remedy: says in words what to do when it is too large.
        last_checkpoint: says in words what the run can be resumed from.

    Raises:
        TrainingError: there is too little memory or room on the disk, or one was raised inside.
    """
    try:
        yield
    except (TrainingError, RuntimeError, MemoryError, OSError) as error:
        if isinstance(error, TrainingError):
            cause = str(error)
        elif isinstance(error, MemoryError) or should_reduce_batch_size(error) or is_short(error):
            cause = (
                f"`batch_size` must be smaller for the memory there is, got {batch_size}; {remedy} "
                f"({first_line(error)})"
            )
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            cause = f"`output_dir` must lie on a disk with room, got a full one at {output_dir!r} ({error})"
        else:
            raise
        raise TrainingError(f"{cause}; {last_checkpoint()}") from error


def is_short(error: BaseException) -> bool:
    """Whether an error of a CPU's library comes of too little memory."""
    words = ("bad_alloc", "could not create a primitive", "can't start new thread", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
