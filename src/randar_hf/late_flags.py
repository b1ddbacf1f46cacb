"""Flags of a loop that the host reads without waiting for the step in flight."""

import torch


class LateFlags:
    """
    Flags that are set on a device, step by step, and read on the host.

    On a CUDA device a reading tells the state one step ago, so that the next step is under way before the host waits.
    The meta device holds no values: there no flag is ever seen.
    """

    def __init__(self):
        self.pending: tuple[torch.Tensor, torch.Event] | None = None

    def read(self, flags: torch.Tensor) -> list[bool]:
        """Hand over this step's flags (F,); returns those that are known by now."""
        if flags.device.type == "meta":
            return [False] * len(flags)
        if flags.device.type != "cuda":
            return flags.tolist()
        previous = self.pending
        copy, event = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True), torch.Event(device=flags.device)
        copy.copy_(flags, non_blocking=True)
        event.record()
        self.pending = copy, event
        if previous is None:
            return [False] * len(flags)
        return self._wait(previous)

    def read_last(self) -> list[bool]:
        """The flags of the last step, when the loop has ended."""
        return [] if self.pending is None else self._wait(self.pending)

    def _wait(self, pending: tuple[torch.Tensor, torch.Event]) -> list[bool]:
        copy, event = pending
        event.synchronize()
        return copy.tolist()


__all__ = ["LateFlags"]
