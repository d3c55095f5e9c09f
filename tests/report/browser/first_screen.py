"""Take the picture of a page's first screen, 1,280 × 800, for docs/images.

    python -m tests.report.browser.first_screen results/mini/index.html docs/images/first-screen.png

needs Chromium; run it from the repository's root.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.report.browser.browser import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Chromium's executable: the one named in CHROMIUM, else the first that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def main(page: Path, out: Path, *, width: int = 1280, height: int = 800, dark: bool = False) -> Path:
    """Write the PNG."""
    executable = program()
    if executable is None:
        sys.exit("no Chromium: install Debian's package chromium, or name the program in CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(executable, Path(folder))
        try:
            browser.open(page, width=width, height=height, dark=dark)
            return browser.screenshot(out)
        finally:
            browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
