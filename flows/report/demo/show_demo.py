"""`bakeoff demo`: show the page of a recorded campaign, in a browser where there is one. Standard library alone.

Use: `show(browser=True)` gives the sentence to print. `flows.start` calls it before anything else is imported, so it works
while torch is still being installed. Limits: the page is a recording; `bakeoff run` makes a real one.
"""

from __future__ import annotations

import webbrowser
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "page.html"


def show(browser: bool = True) -> str:
    """Open the page; the sentence names its file. Raises FileNotFoundError where the installation lacks it."""
    if not PAGE.is_file():
        raise FileNotFoundError(
            f"{PAGE}: the demo's page is not there; install Bakeoff again, or run: make demo"
        )
    opened = browser and webbrowser.open(PAGE.as_uri())
    how = "opened in your browser" if opened else "open it in a browser"
    return f"A recorded campaign of airbench_mini, {how}: {PAGE}\nOne of your own: bakeoff prepare airbench_mini && bakeoff run airbench_mini"
