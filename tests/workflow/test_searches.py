"""Searches of a profile: where a run's allocation comes from, and what a profile may not say about them."""

from collections.abc import Callable
from typing import Any

import pytest

from qdit.core.errors import ConfigError
from qdit.core.run import Run
from qdit.workflow.profile import load_profile, runs_of, search_of, searches_of, validate
from qdit.workflow.searches import SearchRun, layer_place, needs_calibration, search_run_of

PLAIN = "digits-cfg1.0-s20"
Profile = dict[str, Any]


@pytest.fixture
def profile() -> Profile:
    return load_profile("mini")


def test_an_allocation_is_that_of_the_run_s_own_place_unless_the_profile_says_where(profile: Profile) -> None:
    run = Run(PLAIN, "salient", "allocated-racing", "w4a8", "common")
    assert search_of(profile, run) == SearchRun(PLAIN, "salient", "racing", "w4a8")
    assert SearchRun(PLAIN, "salient", "racing", "w4a8").path == f"{PLAIN}/salient/racing/w4a8"
    moved = Run("digits16-cfg1.5-s10", "natural", "from-salient-w4a8", "w4a8", "common")
    assert search_of(profile, moved) == SearchRun(PLAIN, "salient", "racing", "w4a8")
    assert search_of(profile, Run(PLAIN, "natural", "q-dit-fixed", "w4a8", "common")) is None
    profile["methods"]["from-salient-w4a8"]["searched_at"] = {"bits": "w2a8"}
    at = {"setting": PLAIN, "form": "natural", "label": "from-salient-w4a8", "bits": "w4a8"}
    assert search_run_of(profile, **at) == SearchRun(PLAIN, "natural", "racing", "w2a8")


def test_a_table_names_each_search_once(profile: Profile) -> None:
    places = searches_of(profile, "table6")
    assert len(places) == len(set(places)) == 12
    assert {search.form for search in places} == {"natural", "salient"}
    assert set(searches_of(profile, "table4")) <= set(places)
    at_home = [(PLAIN, "natural", bits) for bits in ("w6a8", "w4a8", "w4a4")] + [(PLAIN, "salient", "w4a8")]
    small = [("digits16-cfg1.5-s10", "natural", bits) for bits in ("w6a8", "w4a8")]
    found = {(search.setting, search.form, search.bits): search.search for search in searches_of(profile, "table2")}
    assert found == dict.fromkeys([*at_home, *small], "racing"), "guided runs take the sizes of unguided ones"
    sources = {search for search in searches_of(profile, "transfer") if search.search == "racing"}
    homes = {(block["setting"], block["form"], block["bits"][0]) for block in profile["tables"]["transfer"]["blocks"]}
    assert {(search.setting, search.form, search.bits) for search in sources} == homes


def test_q_dit_is_searched_for_images_and_has_one_size_on_clips(profile: Profile) -> None:
    assert search_of(profile, Run("clips-cfg2.5-s15", "natural", "q-dit", "w4a8", "common")) is None
    assert search_of(profile, Run(PLAIN, "natural", "q-dit", "w16a8", "common")) == SearchRun(
        PLAIN, "natural", "racing", "w6a8"
    )
    assert all(
        Run(PLAIN, form, "q-dit", "w4a8", "common") in runs_of(profile, table)
        for form in ("natural", "salient")
        for table in ("table2", "table4", "table6")
    ), "one row, printed three times"


def test_the_paper_s_searches_are_one_for_each_resolution_and_bits() -> None:
    paper = load_profile("paper")
    evolution = {search for search in searches_of(paper, "table2") if search.search == "evolution"}
    assert {(search.setting, search.bits) for search in evolution} == {
        (setting, bits) for setting in ("dit-256-cfg1.0-s50", "dit-512-cfg1.0-s50") for bits in ("w6a8", "w4a8")
    }
    headline = Run("dit-256-cfg1.5-s100", "natural", "q-dit", "w4a8", "common")
    assert all(headline in runs_of(paper, table) for table in ("table2", "table4", "table6"))
    assert paper["methods"]["q-dit"].get("options", {}).get("rounding", "gptq") == "gptq"


def test_uniform_rows_are_shared_with_the_other_tables(profile: Profile) -> None:
    uniform = Run(PLAIN, "natural", "rtn-g16-dynamic", "w4a8", "common")
    assert all(uniform in runs_of(profile, table) for table in ("table1", "table4", "table6", "transfer"))


def test_only_scores_of_layers_need_calibration_data() -> None:
    assert needs_calibration({"kind": "ilp"}) and needs_calibration({"kind": "hessian"})
    assert needs_calibration({"kind": "response"})
    assert needs_calibration({"kind": "racing", "options": {"surrogate": "ilp"}})
    assert not needs_calibration({"kind": "racing", "options": {"surrogate": "none"}})
    assert not needs_calibration({"kind": "evolution"})


BAD: dict[str, tuple[Callable[[Profile], Any], str]] = {
    "unknown search": (
        lambda p: p["methods"]["allocated-racing"].update(search="race"),
        r"methods\.allocated-racing\.search: 'race' is not defined; allowed are evolution, .*",
    ),
    "unknown kind": (
        lambda p: p["searches"]["racing"].update(kind="race"),
        r"searches\.racing\.kind: found 'race'; allowed are evolution, racing",
    ),
    "unknown option": (
        lambda p: p["searches"]["random"].update(options={"evaluation": 3}),
        r"searches\.random\.options: random has no option 'evaluation'; .*did you mean 'evaluations'\?",
    ),
    "option of a kind that has none": (
        lambda p: p["searches"]["chance-0"].update(options={"population": 3}),
        r"searches\.chance-0\.options: chance has no option 'population'; it has none",
    ),
    "unknown key": (
        lambda p: p["searches"]["racing"].update(sead=1),
        r"searches\.racing: unknown key 'sead'; .*did you mean 'seed'\?",
    ),
    "no budget": (lambda p: p.pop("allocation"), "missing allocation, which searches need"),
    "images are not whole chunks": (
        lambda p: p["allocation"].update(images=40),
        r"allocation\.images: found 40, expected a multiple of the chunk, 16",
    ),
    "unknown metric": (lambda p: p["allocation"].update(metric="fvd"), r"allocation\.metric: found 'fvd'"),
    "size 0": (lambda p: p["allocation"].update(sizes=[0]), r"allocation\.sizes\[0\]: found 0"),
    "both a file and a search": (
        lambda p: p["methods"]["allocated-racing"].update(allocation="a.json"),
        r"methods\.allocated-racing: found both allocation and search",
    ),
    "a place without a search": (
        lambda p: p["methods"]["rtn"].update(searched_at={"form": "natural"}),
        r"methods\.rtn\.searched_at: only entries with a search",
    ),
    "unknown place": (
        lambda p: p["methods"]["from-16-w4a8"]["searched_at"].update(setting="digits"),
        r"methods\.from-16-w4a8\.searched_at\.setting: 'digits' is not defined",
    ),
    "form that the model lacks": (
        lambda p: p["methods"]["from-16-w4a8"]["searched_at"].update(form="salient"),
        r"searched_at\.form: 'salient' is not a form of that model; allowed are natural",
    ),
    "bits that do not exist": (
        lambda p: p["methods"]["from-16-w4a8"]["searched_at"].update(bits="w1a8"),
        r"searched_at\.bits: found 'w1a8'",
    ),
    "place of another model": (
        lambda p: p["methods"]["q-dit"]["searched_at"]["setting_of"].update({"dit-digits": "digits16-cfg1.5-s10"}),
        r"methods\.q-dit\.searched_at\.setting_of\.dit-digits: digits16-cfg1\.5-s10 is a setting of dit-digits-16",
    ),
    "place of no model": (
        lambda p: p["methods"]["q-dit"]["searched_at"]["setting_of"].update({"dit": PLAIN}),
        r"methods\.q-dit\.searched_at\.setting_of: 'dit' is not defined",
    ),
    "two places": (
        lambda p: p["methods"]["q-dit"]["searched_at"].update(setting=PLAIN),
        r"methods\.q-dit\.searched_at: found both setting and setting_of",
    ),
    "clips without a size": (
        lambda p: p["methods"]["q-dit"].pop("options"),
        r"methods: q-dit takes the allocation of the search racing, and the workflow runs no searches on clips",
    ),
    "method without allocations": (
        lambda p: p["methods"]["rtn"].update(search="racing"),
        r"methods\.rtn\.options: rtn has no option 'allocation'",
    ),
}


@pytest.mark.parametrize("change", BAD)
def test_bad_searches_are_one_clear_line(profile: Profile, change: str) -> None:
    edit, message = BAD[change]
    edit(profile)
    with pytest.raises(ConfigError, match=message) as raised:
        validate(profile)
    assert "\n" not in str(raised.value)


def test_layers_have_a_block() -> None:
    assert layer_place("blocks.12.mlp.fc1") == (12, "mlp.fc1")
    with pytest.raises(ConfigError, match=r"'final\.linear': expected blocks"):
        layer_place("final.linear")
