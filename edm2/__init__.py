"""EDM2: an experiment framework for the training dynamics of diffusion models.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv 2312.02696). Packages from the bottom up: `params`, `runtime`, {`data`, `features`},
{`vae`, `diffusion`, `ema`, `sampling`, `metrics`}, `reporting`, `pipeline`, `cli`, `notebook`. A
package imports only from those before it.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("edm2")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
