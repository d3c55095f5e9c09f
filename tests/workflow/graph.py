"""Stands for a job of Snakemake's graph."""


class GraphJob:
    """What is read of a job of Snakemake's graph."""

    def __init__(self, rule: str, output: list[str], inputs: list[str] | None = None, label: str | None = None) -> None:
        self.rule = type("Rule", (), {"name": rule})()
        self.output, self.input = output, inputs or []
        self.wildcards_dict = {"label": label} if label else {}
