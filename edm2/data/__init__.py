"""Images and latents on disk, and the stream of training batches."""
