# Pages about all tables: the verdicts on the papers' claims, the leaderboard of all runs, and the report. These jobs
# read result files and compute no results.


rule claims:
    input:
        profile="<results>/profile.json",
        published=[repository(f"results/published/{name}") for name in ALL_PUBLISHED],
        metrics=claims_page_inputs,
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
        md="<results>/claims.md",
    log:
        "<results>/logs/claims.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.report.pages.claims_page"),
    shell:
        "qdit claims --profile {input.profile} --results $(dirname {input.profile}) --out {output.html} > {log} 2>&1"


# The rows that the claims read, and no others: fewer than those of all tables, with rows of opt-in tables. Then the page
# of claims, which has these rows among its inputs.
rule claims_rows:
    input:
        profile="<results>/profile.json",
        metrics=claims_metrics,
        page="<results>/claims.html",


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
        md="<results>/leaderboard.md",
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
        claims=claims_page_inputs,
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


# The last job. All pages exist before it runs. It fails if the method of a row failed. The next call runs it again and
# reports the same rows, until their cause is removed. A row that its method does not support is not an error.
rule check_all_rows:
    input:
        profile="<results>/profile.json",
        metrics=default_metrics,
        pages=lambda w: [file for table in profiles.default_tables(config) for file in table_files(table)]
        + REPORT
        + list(DEFAULT_FIGURES),
    output:
        "<results>/rows.json",
    log:
        "<results>/logs/rows.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code_digest("qdit.workflow.rows"),
    shell:
        "qdit check-rows --profile {input.profile} --results $(dirname {input.profile}) --out {output} > {log} 2>&1"


rule check_rows:
    input:
        profile="<results>/profile.json",
        metrics=metrics_of,
        pages=lambda w: table_files(w.table),
    output:
        "<results>/rows/{table}.json",
    log:
        "<results>/logs/rows-{table}.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code_digest("qdit.workflow.rows"),
    shell:
        "qdit check-rows {wildcards.table} --profile {input.profile} --results $(dirname {input.profile})"
        " --out {output} > {log} 2>&1"
