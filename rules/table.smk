# Metrics → tables in four formats; the HTML is what `snakemake --report` shows.
rule profile:
    output:
        "<results>/profile.json",
    log:
        "<results>/logs/profile.log",
    priority: 100
    localrule: True
    conda:
        ENVIRONMENT
    params:
        profile=lambda w: json.dumps(config, sort_keys=True),  # a function: a text with braces has wildcards
    shell:
        "printf '%s\\n' {params.profile:q} > {output} 2> {log}"


rule table:
    input:
        profile="<results>/profile.json",
        published=published_of,
        metrics=metrics_of,
        allocations=allocations_of,
        samples=samples_of,
        speeds=speeds_of,
    output:
        html=report(
            "<results>/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "format": "html"},
        ),
        csv=report(
            "<results>/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "format": "csv"},
        ),
        md="<results>/tables/{table}.md",
        tex="<results>/tables/{table}.tex",
    log:
        "<results>/logs/table-{table}.log",
    priority: 50  # a page is made as soon as its rows exist
    conda:
        ENVIRONMENT
    threads: 1
    params:
        code=code_digest("qdit.report.pages.build"),
        command=lambda w: COMMANDS.table(w.table),
    shell:
        "qdit {params.command} > {log} 2>&1"
