"""Pictures of a report in each width, color scheme and medium, and its faults:
`python tests/browser/screenshots.py reports/index.html FOLDER`.

Writes 1400-light.png, 1400-dark.png, 1400-print.png and the same of 400 pixels.
Prints the size of the page, the width of each picture, and what is wrong: messages of the console, requests
to the network, text that is clipped or has too little contrast. The status is 1 if there is any fault.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser.visit import VIEWS, WIDTHS, Visit, browser
from playwright.sync_api import Browser


def take(started: Browser, report: Path, folder: Path) -> list[str]:
    """Write the pictures, and print a line for each.

    Returns:
        The faults of all views.
    """
    faults = []
    for width in WIDTHS:
        visit = Visit(started, report, width)
        for view in VIEWS:
            visit.show(width, view)
            visit.page.screenshot(path=folder / f"{width}-{view}.png", full_page=True)
            shown = visit.page.evaluate("document.documentElement.scrollWidth")
            here = visit.faults()
            print(f"{width} px, {view}: {shown} px wide, {len(here)} faults")
            faults += [f"{width} px, {view}: {fault}" for fault in here]
        print(f"{width} px: {len(visit.messages)} messages, {len(visit.requests)} requests")
        faults += visit.messages + visit.requests
        visit.page.context.close()
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"{arguments.report}: {arguments.report.stat().st_size / 1e6:.2f} MB")
    with browser() as started:
        faults = take(started, arguments.report, arguments.folder)
    print(*faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
