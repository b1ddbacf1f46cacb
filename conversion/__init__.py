"""Published checkpoints, read exactly."""

from .convert_randar import convert_randar


__all__ = ["convert_randar"]
