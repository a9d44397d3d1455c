"""Statistics of ImageNet, which networks trained on it normalize their input with."""

MEAN = (0.485, 0.456, 0.406)  # per channel (RGB), of images in [0, 1]
STD = (0.229, 0.224, 0.225)
