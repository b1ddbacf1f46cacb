"""SIGINT (Ctrl-C) and SIGTERM: noted while training, so that a run ends with a checkpoint between two steps."""

import signal
import threading

import torch
from accelerate import Accelerator


SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGREEMENT_STEPS = 10  # optimizer steps after which several processes ask one another
WORKER_SECONDS = 30


class Interrupted(SystemExit):
    """A run that was stopped by a signal and can be resumed; `code` is 128 and the signal's number, as of a shell."""

    def __init__(self, number: int):
        super().__init__(128 + number)


class StopSignals:
    """A context that notes the first SIGINT or SIGTERM.

    A second one acts at once where there is one process. Where there are several it is ignored, since their launcher
    hands on to them what the terminal has sent them already.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.number = 0
        self.former = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # no other thread can set handlers
            self.former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)
        self.former = {}

    def _note(self, number: int, frame) -> None:
        self.number = number
        if self.accelerator.num_processes == 1:
            self.__exit__()

    def agreed(self, step: int) -> int:
        """The number of the signal that any process got, or 0; the same on all of them, who ask every tenth step."""
        if self.accelerator.num_processes == 1:
            return self.number
        if step % AGREEMENT_STEPS:
            return 0
        return int(self.accelerator.gather(torch.tensor([self.number], device=self.accelerator.device)).max())


def outlive_signals(worker: int) -> None:
    """Let a worker process of a loader outlive a signal that all processes get, so that its step can be finished.

    SIGTERM ends it after a while all the same, as loaders end workers with it that do not end by themselves.
    """
    signal.set_wakeup_fd(-1)  # what the parent listens to
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_SECONDS))
