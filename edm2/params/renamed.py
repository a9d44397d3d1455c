"""Keys of older versions of params.yaml, and their names now."""

RENAMED = {
    "ema.sigma_rels": "ema.ema_lengths",
    "sweep.sigma_rel": "sweep.ema_lengths",
    "guidance.sigma_rel": "guidance.ema_length",
    "evaluation.measures": "evaluation.metrics",
    "evaluation.neighbours": "evaluation.neighbors",
    "evaluation.blocks": "evaluation.seed_blocks",
    "diffusion.blocks": "diffusion.res_blocks",
    "vae.num_res_blocks": "vae.res_blocks",
    "vae.losses.plain": "vae.losses.mse",
    "vae.images.least_area": "vae.images.min_area",
    "seed": "seeds",
}
