"""Find the *face* of a table or row: the line that says which data the numbers are about."""

from collections.abc import Mapping
from typing import Any


def face_of_setting(profile: Mapping[str, Any], setting: str) -> str:
    """Return the face (which data the numbers are about) of the setting's model, or else of the profile."""
    model = profile["models"][profile["settings"][setting]["model"]]
    return str(model.get("face") or profile["face"])


def face_of_table(profile: Mapping[str, Any], definition: Mapping[str, Any]) -> str:
    """Join the faces of the models in a table, each once, in the order of the table's blocks."""
    return "; ".join(dict.fromkeys(face_of_setting(profile, block["setting"]) for block in definition["blocks"]))
