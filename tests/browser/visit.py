"""The report in Chromium: a browser without a window, and what a page in it shows and asks for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHECKS = Path(__file__).with_name("checks.js").read_text(encoding="utf-8")
LOCAL = ("file:", "data:", "blob:")
WIDTHS = (1400, 400)  # pixels: a screen, a phone
HEIGHT = 900
VIEWS: dict[str, dict[str, str]] = {
    "light": {"color_scheme": "light", "media": "screen"},
    "dark": {"color_scheme": "dark", "media": "screen"},
    "print": {"color_scheme": "light", "media": "print"},
}
WAIT = 10_000  # milliseconds, at most, for what a page does


class Unavailable(Exception):
    """There is no Chromium here."""


@contextmanager
def browser() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's own.

    Raises:
        Unavailable: there is neither.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next((found for name in NAMES if (found := shutil.which(name))), None)
        if path is None and not Path(playwright.chromium.executable_path).exists():
            raise Unavailable(f"none of {', '.join(NAMES)}, and not Playwright's own")
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page from disk, with its charts drawn and all that is collapsed opened.

    Attributes:
        messages: warnings and errors of the console, and errors that no script caught.
        requests: addresses that are not on this machine.
    """

    def __init__(self, browser: Browser, path: Path, width: int, **context: Any) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        size = {"width": width, "height": HEIGHT}
        self.page = browser.new_context(viewport=size, **context).new_page()
        self.page.set_default_timeout(WAIT)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self._ask(request.url))
        self.page.goto(path.resolve().as_uri())
        if context.get("java_script_enabled", True):
            self.page.evaluate(f"() => {{ {CHECKS} }}")
            closed = self.page.locator("details:not(.live *)")  # Vega's menus stay closed
            closed.evaluate_all("all => all.forEach((each) => { each.open = true; })")
            self.settle()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("warning", "error"):
            self.messages.append(f"{message.type}: {message.text}")

    def _ask(self, url: str) -> None:
        if not url.startswith(LOCAL):
            self.requests.append(url)

    def show(self, width: int, view: str) -> None:
        """As if the window had this width, and the color scheme or medium of a view; charts follow."""
        self.page.emulate_media(**VIEWS[view])  # first: what is hidden does not follow the width
        self.page.set_viewport_size({"width": width, "height": HEIGHT})
        self.settle()

    def settle(self) -> None:
        """Wait until charts are drawn."""
        self.page.evaluate("window.checks.settled()")

    def faults(self, *names: str) -> list[str]:
        """What the functions of checks.js with these names find, of all without names."""
        found: list[str] = self.page.evaluate(
            """(names) => {
              const { settled, ...checks } = window.checks;
              const chosen = names.length ? names : Object.keys(checks);
              return chosen.flatMap((name) => checks[name]());
            }""",
            names,
        )
        return found
