"""images → models/features: the dataset's classifier."""

from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Train the classifier that replaces VGG16 and Inception by default; classify held-out images."""
    from edm2.pipeline.feature_training import train_features

    train_features(context)


if __name__ == "__main__":
    main(run)
