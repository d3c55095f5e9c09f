# What all tables say together: the papers' claims, every run on one list, and everything on one page. They read what
# the runs left and compute no result.


rule claims:
    input:
        profile="<results>/profile.json",
        published=[repository(f"results/published/{name}") for name in ALL_PUBLISHED],
        metrics=default_metrics,
    output:
        html=report(
            "<results>/claims.html",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "claims", "format": "html"},
        ),
        csv=report(
            "<results>/claims.csv",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "claims", "format": "csv"},
        ),
    log:
        "<results>/logs/claims.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.report.pages.claims_page"),
    shell:
        "qdit claims --profile {input.profile} --results $(dirname {input.profile}) --out {output.html} > {log} 2>&1"


rule leaderboard:
    input:
        profile="<results>/profile.json",
        published=[repository(f"results/published/{name}") for name in ALL_PUBLISHED],
        metrics=default_metrics,
    output:
        html=report(
            "<results>/leaderboard.html",
            caption="../report/table.rst",
            category="Leaderboard",
            labels={"table": "leaderboard", "format": "html"},
        ),
        csv=report(
            "<results>/leaderboard.csv",
            caption="../report/table.rst",
            category="Leaderboard",
            labels={"table": "leaderboard", "format": "csv"},
        ),
    log:
        "<results>/logs/leaderboard.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.report.pages.leaderboard"),
    shell:
        "qdit leaderboard --profile {input.profile} --results $(dirname {input.profile}) > {log} 2>&1"


rule index:
    input:
        profile="<results>/profile.json",
        published=[repository(f"results/published/{name}") for name in ALL_PUBLISHED],
        metrics=default_metrics,
        samples=default_samples,
        allocations=default_allocations,
        figures=lambda w: DEFAULT_FIGURES,
        studies=[repository(file.relative_to(workflow.basedir)) for file in STUDIES],
    output:
        report(
            INDEX,
            caption="../report/index.rst",
            category="Report",
            labels={"table": "everything on one page", "format": "html"},
        ),
    log:
        "<results>/logs/index.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.report.pages.run_report"),
    shell:
        "qdit report --profile {input.profile} --results $(dirname {input.profile}) --out {output} > {log} 2>&1"
