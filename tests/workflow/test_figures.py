"""The figures of a run: part of `all`, listed, each as SVG and PNG, none of them empty."""

import json

from tests.workflow.checkout import Checkout


def test_figures_are_part_of_all(checkout: Checkout) -> None:
    folder = checkout.results / "figures"
    entries = {entry["name"]: entry for entry in json.loads((folder / "figures.json").read_text(encoding="utf-8"))}
    for entry in entries.values():
        assert (folder / entry["file_png"]).read_bytes().startswith(b"\x89PNG")
        assert "handwritten digits, not ImageNet" in (folder / entry["file_svg"]).read_text(encoding="utf-8")
        assert entry["missing"] is None, entry["name"]
    assert {"channels-dit-digits-natural", "errors-layers-dit-digits-natural"} <= set(entries)
    assert "samples-digits-cfg1.0-s20-natural-w4a8" in entries
    assert (checkout.results / "analysis/digits-cfg1.0-s20/natural/errors-w4a8-common.npz").is_file()
