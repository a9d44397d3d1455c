"""The denoiser, its training dynamics, and the ladder of training configurations A to G."""

from edm2.diffusion.denoiser import Denoiser, build_denoiser

__all__ = ["Denoiser", "build_denoiser"]
