"""Networks that extract features of images: feature maps for losses, feature vectors for metrics."""
