# What all tables say together: the papers' claims, and every run on one list. Both read metrics.json only.


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
        csv="<results>/claims.csv",
    log:
        "<results>/logs/claims.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.tables.claims_page"),
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
            category="Tables",
            labels={"table": "leaderboard", "format": "html"},
        ),
        csv="<results>/leaderboard.csv",
    log:
        "<results>/logs/leaderboard.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.tables.leaderboard"),
    shell:
        "qdit leaderboard --profile {input.profile} --results $(dirname {input.profile}) > {log} 2>&1"
