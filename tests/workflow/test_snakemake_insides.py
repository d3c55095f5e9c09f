"""What the rules change inside Snakemake is there: an assignment to a name that is gone would do nothing."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path


def attributes(node: ast.AST, use: type[ast.expr_context]) -> set[str]:
    """Names of the attributes that are read (`ast.Load`) or set (`ast.Store`) somewhere in the node."""
    return {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and isinstance(part.ctx, use)}


def test_the_rules_set_only_what_the_scheduler_of_snakemake_has(repository: Path) -> None:
    rules = "\n".join(path.read_text(encoding="utf-8") for path in sorted((repository / "rules").rglob("*.smk")))
    changed = set(re.findall(r"\bworkflow\.scheduler\.(\w+) = ", rules))
    package = find_spec("snakemake")
    assert package is not None and package.origin is not None
    source = Path(package.origin).parent / "scheduling" / "job_scheduler.py"
    statements = ast.parse(source.read_text(encoding="utf-8")).body
    (scheduler,) = (part for part in statements if isinstance(part, ast.ClassDef) and part.name == "JobScheduler")
    (start,) = (part for part in scheduler.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
    assert changed == {"job_rate_limiter"}
    assert changed <= attributes(start, ast.Store) & attributes(scheduler, ast.Load)
