"""The dashboards as they are in the files, and what each panel must have."""

import json
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "dashboards"


class Panel:
    def __init__(self, json):
        self.json = json
        self.title = json.get("title", "")
        self.type = json["type"]
        self.description = json.get("description", "")
        self.expressions = [target["expr"] for target in json["targets"]]
        self.place = json["gridPos"]

    @property
    def empty_by_design(self):
        return self.line("Empty by design")

    def line(self, word):
        found = re.search(rf"^{word}: (.+)$", self.description, re.MULTILINE)
        return found and found[1]

    def problems(self, root, runbook):
        if not self.title or len(self.description.split("\n")[0]) < 20:
            yield "no title or description"
        if not self.json["fieldConfig"]["defaults"].get("unit"):
            yield "no unit"
        moved_by = self.description.rsplit("\n", 1)[-1].removeprefix("Moved by: ")
        if not test_exists(root, moved_by):
            yield f"there is no test {moved_by}"
        for link in self.json.get("links", []):
            if not section(runbook, link["url"].removeprefix("${runbook}#")):
                yield f"the runbook has no section {link['url']}"
        if self.json["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield "its data source isn't the one that was chosen"
        if self.place["x"] + self.place["w"] > 24:
            yield "it is wider than the page"


class Dashboard:
    def __init__(self, path):
        self.json = json.loads(path.read_text())
        self.uid = self.json["uid"]
        self.name = self.json["title"].removeprefix("roomgate / ").split(" and ")[0]
        self.panels = [Panel(panel) for panel in self.json["panels"] if panel["type"] != "row"]
        self.rows = [panel for panel in self.json["panels"] if panel["type"] == "row"]
        self.annotations = [each["expr"] for each in self.json["annotations"]["list"] if "expr" in each]
        asked = [each["definition"] for each in self.json["templating"]["list"] if each["type"] == "query"]
        self.variables = [re.fullmatch(r"label_values\((\w+), (\w+)\)", each).groups() for each in asked]

    def queries(self):
        for panel in self.panels:
            yield from ((f"{self.name}: {panel.title}", expression) for expression in panel.expressions)
        yield from ((f"{self.name}: annotations", expression) for expression in self.annotations)

    def problems(self, root, runbook):
        ids = [panel["id"] for panel in self.json["panels"]]
        if len(set(ids)) != len(ids):
            yield "an id is there twice"
        taken = set()
        for panel in self.panels:
            yield from (f"{panel.title}: {problem}" for problem in panel.problems(root, runbook))
            x, y, w, h = (panel.place[key] for key in "xywh")
            cells = {(i, j) for i in range(x, x + w) for j in range(y, y + h)}
            if cells & taken:
                yield f"{panel.title}: it lies on another"
            taken |= cells


@cache
def dashboards():
    order = ["overview", "node", "shards", "bus", "rooms"]
    return [Dashboard(FOLDER / f"{name}.json") for name in order]


def test_exists(root, name):
    """`it::reads::a_test`: `fn a_test` in tests/it/reads.rs or tests/it/reads/…"""
    *modules, test = name.split("::")
    modules = [module for module in modules if module != "tests"]
    if not modules:
        return False
    for folder in (root / "tests", root / "src"):
        path = folder.joinpath(*modules)
        for file in (path.with_suffix(".rs"), path / "mod.rs"):
            if file.exists() and re.search(rf"\bfn {re.escape(test)}\(", file.read_text()):
                return True
    return False


def section(runbook, anchor):
    headings = re.findall(r"^#+ (.+)$", runbook, re.MULTILINE)
    return anchor in {heading.lower().replace(" ", "-") for heading in headings}
