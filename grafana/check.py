"""Holds alerts, their tests, the runbook and the dashboards to each other and to
the metrics that exist: `make operators-test`.

Usage: check.py [--prometheus URL [--minutes N]]

With a Prometheus that watches a cluster under load, which has loaded the rules,
every query is asked there as well, over the last N minutes (15): each must
return data, but for those of panels whose description says "Empty by design".
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

import expressions
from boards import dashboards, section
from injections import FAULTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RULES = sorted((HERE / "prometheus/rules").glob("*.yml"))
TESTS = sorted((HERE / "prometheus/tests").glob("*.yml"))
RUNBOOK = (ROOT / "docs/runbook.md").read_text()

# Prometheus' own, HAProxy's, and those that a crate names as every client does.
FOREIGN = re.compile(r"up|ALERTS|haproxy_\w+|process_\w+")
# Named before there is anything to measure, with the reason.
PENDING = {}
# Alerts that can't be asked without their comparison.
ONLY_WHEN_FIRING = {"NodesNotWatched": "absent() has a value only where nothing is"}

problems = []


def wrong(where, what):
    problems.append(f"{where}: {what}")


def rules():
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        wrong(" ".join(command[:3]), (done.stdout + done.stderr).strip())


def tools_agree():
    run("promtool", "check", "config", str(HERE / "prometheus/prometheus.yml"))
    run("promtool", "check", "rules", *map(str, RULES))
    run("promtool", "test", "rules", *map(str, TESTS))
    run("amtool", "check-config", str(HERE / "prometheus/alertmanager.yml"))
    for path in (HERE / "provisioning").rglob("*.yml"):
        if yaml.safe_load(path.read_text())["apiVersion"] != 1:
            wrong(path.name, "not of version 1")


def known_metrics():
    """Every name in quotes in src/metrics, and what a histogram makes of it."""
    names = {rule["record"] for rule in rules() if "record" in rule}
    for path in (ROOT / "src/metrics").glob("*.rs"):
        for name in re.findall(r'"([a-z]+_[a-z_]+)"', path.read_text()):
            names |= {name, f"{name}_bucket", f"{name}_count", f"{name}_sum"}
    for name in PENDING.keys() & names:
        wrong("check.py", f"{name} is there now: it is not pending any more")
    return names | PENDING.keys()


def expression_is_sound(where, expression, known):
    for name in expressions.metrics(expression) - known:
        if not FOREIGN.fullmatch(name):
            wrong(where, f"there is no metric {name}")
    if re.search(r"or\s+(on\s*\(\s*\)\s*)?vector\s*\(", expression):
        wrong(where, "a vector() hides that there is no data")
    for label in expressions.labels(expression) & {"room", "user", "session"}:
        wrong(where, f"no metric has a label {label}")


def cases():
    """Of every alert: how many tests see it fire, and how many see that it doesn't."""
    seen = {}
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["promql_expr_test"]:
                named = re.search(r'alertname="(\w+)"', case["expr"])
                if named:
                    counts = seen.setdefault(named[1], [0, 0])
                    counts[0 if case["exp_samples"] else 1] += 1
    return seen


def alerts_are_complete(known):
    tested = cases()
    for rule in rules():
        name = rule.get("alert") or rule["record"]
        expression_is_sound(name, rule["expr"], known)
        if "alert" in rule:
            alert_is_complete(name, rule, *tested.pop(name, (0, 0)))
    for name in tested:
        wrong("tests", f"there is no alert {name}")


def alert_is_complete(name, rule, firing, quiet):
    if not firing or not quiet:
        wrong(name, f"tests: {firing} see it fire, {quiet} see that it doesn't")
    if "for" not in rule:
        wrong(name, "no `for`")
    told, labels = rule["annotations"], rule["labels"]
    if labels.get("severity") not in ("warn", "critical") or "topic" not in labels:
        wrong(name, f"severity or topic: {labels}")
    if labels.get("page", "true") != "true" or ("page" in labels and labels["severity"] != "critical"):
        wrong(name, "only what is critical may page")
    for key in ("summary", "description"):
        if not told.get(key):
            wrong(name, f"no {key}")
    if told.get("runbook_url") != f"docs/runbook.md#{name.lower()}" or not section(RUNBOOK, name.lower()):
        wrong(name, "no section of its name in the runbook")
    threshold = told.get("threshold")
    if threshold and not re.search(rf"(==|>=?|<)\s*{re.escape(threshold)}(?![\d.])", rule["expr"]):
        wrong(name, f"it isn't compared with its threshold {threshold}")


def runbook_has_no_other_sections():
    """But for those that no alert leads to, which are named by a sentence."""
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    for name in set(re.findall(r"^### (\S+)$", RUNBOOK, re.MULTILINE)) - names:
        wrong("runbook", f"there is no alert {name}")
    for anchor in re.findall(r"\]\(#([a-z]+)\)", RUNBOOK):
        if not section(RUNBOOK, anchor):
            wrong("runbook", f"there is no section {anchor}")
    titles = {panel.title for board in dashboards() for panel in board.panels}
    for line in re.findall(r"^- Look: .*(?:\n  .*)*", RUNBOOK, re.MULTILINE):
        for title in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", line.replace("\n  ", " ")):
            if title not in titles | {board.name for board in dashboards()} | {"Status / Targets"}:
                wrong("runbook", f"there is no panel {title}")


def faults_name_what_exists():
    """Those of faults.py, whose run is long."""
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    titles = {(board.name, panel.title) for board in dashboards() for panel in board.panels}
    table = (ROOT / "docs/faults-and-alerts.md").read_text()
    for fault in FAULTS:
        for name in set(fault.alerts) - alerts:
            wrong(fault.name, f"there is no alert {name}")
        for board, title, _ in fault.panels:
            if (board, title) not in titles:
                wrong(fault.name, f"there is no panel {board}: {title}")
        if f"| **{fault.name}**:" not in table:
            wrong(fault.name, "no row in docs/faults-and-alerts.md")
    for name, anchor in re.findall(r"\[(\w+)\]\(runbook\.md#(\w+)\)", table):
        if name not in alerts or anchor != name.lower():
            wrong("docs/faults-and-alerts.md", f"there is no alert {name}")


def dashboards_are_complete(known):
    uids = [board.uid for board in dashboards()]
    if len(set(uids)) != len(uids):
        wrong("dashboards", "a uid is there twice")
    for board in dashboards():
        for problem in board.problems(ROOT, RUNBOOK):
            wrong(board.name, problem)
        for where, expression in board.queries():
            expression_is_sound(where, expression, known)
    expressions_parse([query for board in dashboards() for query in board.queries()])


def expressions_parse(queries):
    recorded = [
        {"record": f"q{i}", "expr": expressions.filled_in(expression, "1h")}
        for i, (_, expression) in enumerate(queries)
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}, file)
        file.flush()
        run("promtool", "check", "rules", "--lint=none", file.name)


def everything_has_data(prometheus, minutes):
    end = time.time()
    window, start, step = f"{minutes}m", end - 60 * minutes, max(2, minutes // 4)
    empty = 0
    for board in dashboards():
        for panel in board.panels:
            for expression in panel.expressions:
                asked = expressions.filled_in(expression, window)
                found = answer(f"{board.name}: {panel.title}", lambda: prometheus.over(asked, start, end, step))
                if not found and panel.empty_by_design:
                    # Empty because of a comparison: what is compared is there.
                    all_of_it = expressions.uncompared(asked)[0]
                    if all_of_it != asked and not prometheus.over(all_of_it, start, end, step):
                        wrong(f"{board.name}: {panel.title}", f"no data: {all_of_it}")
                    empty += 1
                    print(f"empty by design: {board.name}: {panel.title}: {panel.empty_by_design}\n  {asked}")
                elif not found:
                    wrong(f"{board.name}: {panel.title}", f"no data: {asked}")
        for metric in {name for asked in board.annotations for name in expressions.metrics(asked)} - PENDING.keys():
            if not answer(board.name, lambda: prometheus.over(metric, start, end, step)):
                wrong(board.name, f"annotations: no data: {metric}")
        for metric, label in board.variables:
            if not prometheus.get(f"label/{label}/values", **{"match[]": metric}):
                wrong(board.name, f"no {label} to choose")
    for rule in rules():
        for part in expressions.uncompared(rule["expr"]) if rule.get("alert") not in ONLY_WHEN_FIRING else []:
            if not answer(str(rule), lambda: prometheus.over(part, start, end, step)):
                wrong(rule.get("alert") or rule["record"], f"no data: {part}")
    print(f"asked everything of {prometheus.url}; empty by design: {empty}")


def answer(where, ask):
    try:
        return ask()
    except ValueError as error:
        wrong(where, str(error))
        return True


def rules_are_loaded(prometheus):
    loaded = {rule["name"]: rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
    for rule in rules():
        name = rule.get("alert") or rule["record"]
        if name not in loaded:
            wrong(name, "Prometheus has not loaded it")
        elif loaded[name]["health"] == "err":
            wrong(name, loaded[name]["lastError"])
    for alert in prometheus.get("alerts")["alerts"]:
        told = " ".join(alert["annotations"].values())
        if re.search(r"<error|<no value>|%!|NaN", told):
            wrong(alert["labels"]["alertname"], f"says: {told}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", metavar="URL")
    parser.add_argument("--minutes", type=int, default=15)
    arguments = parser.parse_args()
    known = known_metrics()
    alerts_are_complete(known)
    runbook_has_no_other_sections()
    faults_name_what_exists()
    dashboards_are_complete(known)
    tools_agree()
    if arguments.prometheus:
        prometheus = expressions.Prometheus(arguments.prometheus)
        rules_are_loaded(prometheus)
        everything_has_data(prometheus, arguments.minutes)
    for problem in problems:
        print(problem, file=sys.stderr)
    alerts = sum("alert" in rule for rule in rules())
    panels = sum(len(board.panels) for board in dashboards())
    print(f"{alerts} alerts, {panels} panels, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
