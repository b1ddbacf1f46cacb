"""The icons behind the shipped checkpoints: their data, a classifier that judges them, and their numbers."""
