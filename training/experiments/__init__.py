"""The trainings and evaluations behind the checkpoints that ship with the package."""
