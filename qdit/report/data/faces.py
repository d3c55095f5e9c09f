"""The *face* of tables and rows: the line that says which data their numbers are about."""

from collections.abc import Mapping
from typing import Any


def face_of_setting(profile: Mapping[str, Any], setting: str) -> str:
    """The line that says which data the setting's model is about; that of the profile if the model has none."""
    model = profile["models"][profile["settings"][setting]["model"]]
    return str(model.get("face") or profile["face"])


def face_of_table(profile: Mapping[str, Any], definition: Mapping[str, Any]) -> str:
    """The faces of the models in the blocks of a table, each once, in the order of the blocks."""
    return "; ".join(dict.fromkeys(face_of_setting(profile, block["setting"]) for block in definition["blocks"]))
