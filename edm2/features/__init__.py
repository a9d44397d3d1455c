"""Backbones that see images: feature maps for losses, feature vectors for metrics."""
