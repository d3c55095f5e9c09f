"""What a page lacks for readers who cannot see it, or who see one table of it."""

import html.parser


class Reading(html.parser.HTMLParser):
    """Collects tables without a caption, and pictures without words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[str] = []
        """Caption of each table; empty: none."""
        self.pictures: list[str] = []
        """Words that stand for each picture; empty: none."""
        self._in_caption = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tables += [""] if tag == "table" else []
        self._in_caption = self._in_caption or tag == "caption"
        if tag == "img":
            self.pictures.append(named.get("alt") or "")
        elif tag == "svg":
            assert named.get("role") == "img"
            self.pictures.append(named.get("aria-label") or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_caption = self._in_caption and tag != "caption"

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            self.tables[-1] += data.strip()
