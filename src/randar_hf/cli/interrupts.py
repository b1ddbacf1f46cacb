"""An answer to Ctrl-C within a second, also while a library keeps Python from handling it."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def acknowledging(command: str) -> Iterator[None]:
    """
    Say on stderr that SIGINT or SIGTERM came, as soon as it comes.

    Python handles a signal between two of its own instructions, which a step of training or an import may keep it from
    for long. The system's handler writes to a socket at once, and a thread reads it. Only the first process of several
    says so, and no thread but the main one can.
    """
    if threading.current_thread() is not threading.main_thread() or os.environ.get("RANK", "0") != "0":
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    former = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_answer, args=(reading, command), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        writing.close()
        thread.join()


def _answer(reading: socket.socket, command: str):
    with reading:
        while number := reading.recv(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                name = signal.Signals(number[0]).name
                sys.stderr.write(f"randar-hf {command}: {name}, stopping; what was trained is saved first\n")
