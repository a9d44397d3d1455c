"""Results of the pipeline in a notebook: one training, opened, and pictures to slide through."""

from edm2.notebook.slider import Slider
from edm2.notebook.training import Distance, Training, open_training

__all__ = ["Distance", "Slider", "Training", "open_training"]
