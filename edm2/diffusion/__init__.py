"""The denoiser and its training; the training configs A to G are in edm2.params.configs."""

from edm2.diffusion.denoiser import Denoiser, build_denoiser

__all__ = ["Denoiser", "build_denoiser"]
