"""EDM2: a declarative experiment framework for the training dynamics of diffusion models.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv 2312.02696). The rooms, from the ground up: `params`, `runtime`, `data`, `features`,
{`vae`, `diffusion`, `ema`, `sampling`, `metrics`}, `reporting`. Imports go down only.
"""
