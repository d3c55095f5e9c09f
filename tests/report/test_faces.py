"""A table says which data its numbers are about: the face of its models, else that of the profile."""

from qdit.report.data.faces import face_of_setting, face_of_table

PROFILE = {
    "face": "digits",
    "models": {"dit-digits": {}, "dit-fashion": {"face": "clothes"}},
    "settings": {"d": {"model": "dit-digits"}, "f": {"model": "dit-fashion"}, "f2": {"model": "dit-fashion"}},
}


def test_a_model_without_a_face_has_that_of_the_profile() -> None:
    assert face_of_setting(PROFILE, "d") == "digits"
    assert face_of_setting(PROFILE, "f") == "clothes"


def test_a_table_names_each_face_once_in_the_order_of_its_blocks() -> None:
    assert (
        face_of_table(PROFILE, {"blocks": [{"setting": "f"}, {"setting": "d"}, {"setting": "f2"}]}) == "clothes; digits"
    )
