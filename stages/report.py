"""all results → reports: tables, figures and a page."""

from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Build the tables, figures and index.html from the results of the other stages."""
    from edm2.pipeline.report import report

    report(context)


if __name__ == "__main__":
    main(run)
