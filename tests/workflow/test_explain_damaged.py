"""`qdit explain` on files of older versions and damaged files: the link says so, and the other links follow."""

import json
from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import sha256_json, write_json, write_text
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.workflow.commands import Commands
from qdit.workflow.explain import DIFFERS, OK, allocation_link, checkpoint_links, config_of, find_run
from qdit.workflow.profile import load_profile, runs_of
from tests.small_models import random_dit

RECORD: dict[str, Any] = {
    "method": "rtn",
    "weight_bits": 4,
    "activation_bits": 8,
    "scope": "common",
    "options": {},
    "calibration_sha256": {},
    "allocation_sha256": None,
    "weights_sha256": "a" * 64,
}


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"format": 3}', '{"record": {"method": "rtn"}}', '{"record": 1}'])
def test_a_checkpoint_of_another_version_is_a_broken_link(tmp_path: Path, text: str) -> None:
    profile = load_profile("mini")
    run = next(run for run in runs_of(profile, "table2") if run.label == "rtn")
    path = run.folder(tmp_path) / "checkpoint" / "config.json"
    write_text(path, text)
    (link,) = checkpoint_links(Commands(profile, tmp_path), run, "checkpoint")
    assert link.broken and link.path == path and link.check.startswith(DIFFERS) and "again" in link.check
    assert "\n" not in link.check


@pytest.mark.parametrize("name", [*RECORD, "sites", "files"])
def test_each_entry_that_is_shown_must_be_there(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, Quantized(random_dit()), RECORD)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config_of(path)["record"] == RECORD
    (config["record"] if name in RECORD else config).pop(name)
    write_json(path, config)
    with pytest.raises(DataError, match=rf"not a checkpoint that this version writes \(it lacks .*{name}.*\)"):
        config_of(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null"])
def test_an_allocation_without_group_sizes_is_a_broken_link(tmp_path: Path, text: str) -> None:
    profile = load_profile("mini")
    run = next(run for run in runs_of(profile, "table6") if "search" in profile["methods"][run.label])
    commands = Commands(profile, tmp_path)
    path = commands.allocation_file(run)
    assert path is not None
    write_json(path, {"groups": {"blocks.0.mlp.fc1": 16}})
    assert allocation_link(commands, run, path, sha256_json({"blocks.0.mlp.fc1": 16})).check == OK
    write_text(path, text)
    link = allocation_link(commands, run, path, "a" * 64)
    assert link.broken and "no group sizes can be read" in link.check and "\n" not in link.check


@pytest.mark.parametrize("row", ["²", "0", "1e3", "999"])
def test_a_number_that_is_no_row_is_one_line(row: str) -> None:
    with pytest.raises(ConfigError, match="table2: ") as refused:
        find_run(load_profile("mini"), "table2", row)
    assert "\n" not in str(refused.value)
