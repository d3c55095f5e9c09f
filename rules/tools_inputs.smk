# Input files for rows of tools and of imported images (rules/tools.smk, rules/imported.smk).
from qdit.sampling.tools.registry import find_tool
from qdit.workflow.tool_calibration import tool_kinds

TOOL_ENV = "<results>/envs/tools"
TOOL_LABELS = [label for label, entry in config["methods"].items() if "tool" in entry]
IMPORTED_LABELS = [label for label, entry in config["methods"].items() if "images" in entry]


def tool_code(wildcards):
    """Digest of the step's code and of the tool's own file."""
    known = find_tool(config["methods"][wildcards.label]["tool"])
    return code_digest("qdit.sampling.tools.quantizing", "qdit.sampling.tools.driver", known.module)


def tool_data(wildcards):
    """Calibration data that a tool measures ranges on, by kind."""
    run = tool_run(wildcards)
    return {kind: str(path) for kind, path in COMMANDS.calibration_files(run, tool_kinds(config, run)).items()}


def full_precision_checkpoint(wildcards):
    """Checkpoint of full precision, which the speed of a row is relative to."""
    return f"{run_folder(full_precision_run(wildcards))}/checkpoint/config.json"


def imported_files(wildcards):
    """The file of an imported row, or those of its folder."""
    path = COMMANDS.file(config["methods"][wildcards.label]["images"][wildcards.bits])
    return sorted(map(str, path.iterdir())) if path.is_dir() else [str(path)]
