"""Ctrl-C of a command that has not begun, imports something or is done: one line and a shell's exit code."""

import os
import signal
import sys
from types import FrameType


MAIN = ("randar_hf.cli", "main")


def answer_interrupts():
    """
    Let SIGINT end the process at once where Python would print a traceback, and raise `KeyboardInterrupt` elsewhere.

    Modules in the midst of being imported turn that into other errors. An ignored SIGINT, as in the background of a
    shell, stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _answer)


def _answer(number: int, frame: FrameType | None):
    has_begun = is_importing = False
    while frame is not None:
        has_begun |= (frame.f_globals.get("__name__"), frame.f_code.co_name) == MAIN
        is_importing |= frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    if has_begun and not is_importing:
        raise KeyboardInterrupt
    os.write(2, f"{' '.join(['randar-hf', *sys.argv[1:2]])}: interrupted\n".encode())
    os._exit(128 + number)
