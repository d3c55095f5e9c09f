"""Read two facts from the checkpoint of a run: its stored bits for each weight, and which values share a range."""

from pathlib import Path

from qdit.core.errors import QditError
from qdit.quant.folder import CONFIG_FILE, read_config
from qdit.quant.stored_bits import bits_per_weight, granularity_text
from qdit.report.data.metrics_json import Row

COLUMNS = ("granularity", "bits_per_weight")


def stored_cells(folder: Path) -> Row:
    """Return the cells `granularity` and `bits_per_weight` of a run. Empty without a checkpoint.

    They are also empty for the checkpoint of a tool, because it lists no sites (quantized places of a network).
    """
    checkpoint = folder / "checkpoint"
    if not (checkpoint / CONFIG_FILE).is_file():
        return {}
    try:
        config = read_config(checkpoint)
        if "sites" not in config:
            return {}
        bits = bits_per_weight(checkpoint, config)
        return {"granularity": granularity_text(config["sites"]) or None, "bits_per_weight": bits}
    except (QditError, KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
        return {"stored_problem": " ".join(str(problem).split())}
