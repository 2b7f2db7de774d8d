"""What check.py and render.py need to know of PromQL: which names an expression
uses, what it asks before it compares, and how Grafana fills in its variables."""

import json
import re
import urllib.parse
import urllib.request

KEYWORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool"}
COMPARISON = re.compile(r"(==|!=|>=|<=|>|<)\s*[\d.]+(\s*\*\s*[\d.]+)?")


def metrics(expression):
    """The names of the series that an expression selects."""
    text = re.sub(r'"[^"]*"', '""', expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\boffset\s+\w+", " ", text)
    names = re.findall(r"(?<![\w$.:])([a-zA-Z_][\w:]*)(?!\s*\(|[\w:])", text)
    return {name for name in names if name not in KEYWORDS}


def labels(expression):
    """The labels that an expression chooses or groups by."""
    matched = re.findall(r"[{,]\s*([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"", expression)
    grouped = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return set(matched) | {name.strip() for group in grouped for name in group.split(",") if name.strip()}


def uncompared(expression):
    """The parts of an alert that must have data also when it doesn't fire."""
    return [part.strip() for part in re.split(r"\s<\s", COMPARISON.sub("", expression))]


def filled_in(expression, window, rate="1m"):
    """As Grafana asks, with all nodes and shards chosen."""
    expression = expression.replace("$__rate_interval", rate).replace("$__range", window)
    return re.sub(r"\$(node|shard)\b", ".*", expression)


class Prometheus:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from error

    def over(self, expression, start, end, step):
        """Series as (labels, [(time, value)]), without those that have only NaN."""
        found = self.get("query_range", query=expression, start=start, end=end, step=step)["result"]
        series = [(each["metric"], [(t, float(v)) for t, v in each["values"]]) for each in found]
        return [(names, points) for names, points in series if any(v == v for _, v in points)]

    def now(self, expression, at):
        found = self.get("query", query=expression, time=at)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        series = [(each["metric"], float(each["value"][1])) for each in found["result"]]
        return [(names, value) for names, value in series if value == value]
