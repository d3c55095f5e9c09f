"""A checkout under a path with spaces, quotes and shell characters works; one under braces is refused in one line."""

from pathlib import Path

import pytest

from qdit.core.errors import ConfigError
from qdit.workflow.paths import require_plain_folders
from tests.workflow.checkout import Checkout, copied

TARGET = "results/tiny/runs/digits-cfg1.0-s20/natural/fp/w16a16-common/checkpoint"


@pytest.mark.ci
def test_a_job_runs_under_any_path_without_braces(repository: Path, tmp_path: Path) -> None:
    copy = Checkout(copied(repository, tmp_path / "$HOME 'b' \"c\" `id` ;& *"))
    copy.snakemake("--cores", "1", f"{TARGET}/config.json", own_server=True)
    assert (copy.root / TARGET / "model.safetensors").is_file()


def test_a_path_with_braces_is_refused_in_one_line(repository: Path, tmp_path: Path) -> None:
    copy = Checkout(copied(repository, tmp_path / "{a}"))
    done = copy.snakemake("--dry-run", code=2)
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"qdit: error: {copy.root}: Snakemake reads braces in a path as wildcards")
    assert "Traceback" not in done.stderr
    require_plain_folders("/home/a b/'c'", Path("/x$y"))
    with pytest.raises(ConfigError, match="line ends"):
        require_plain_folders("/fine", "/not\nfine")
