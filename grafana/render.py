"""Draws every dashboard from the same files and the same queries as Grafana, for
people to see without one: one PNG each, for docs/.

Usage: render.py --prometheus URL [--minutes N] [--out FOLDER]

The pictures are drawn by Chromium. They resemble Grafana and are not it.
"""

import argparse
import html
import itertools
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from PIL import Image

import expressions
from boards import dashboards

HERE = Path(__file__).resolve().parent
# POINTS: how many samples of each series are asked for.
WIDTH, CELL, GAP, POINTS = 1200, 29, 8, 180
COLOURS = "#73bf69 #f2cc0c #8ab8ff #ff780a #f2495c #5794f2 #b877d9 #fade2a #56a64b #ffb357".split()
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "purple": "#b877d9"}

STYLE = """
body{margin:0;background:#111217;color:#ccccdc;font:12px sans-serif;position:relative}
h1{font-size:17px;margin:0;padding:12px 10px;font-weight:500}
.row{position:absolute;font-size:14px;padding-left:6px}
.panel{position:absolute;background:#181b1f;border:1px solid #25282e;border-radius:2px;overflow:hidden}
.panel b{display:block;font-weight:500;padding:5px 8px 2px;white-space:nowrap}
.legend{position:absolute;left:8px;right:8px;bottom:3px;height:28px;line-height:14px;font-size:11px;overflow:hidden}
.legend i{display:inline-block;width:10px;height:3px;margin:0 4px 3px 0;vertical-align:middle}
.legend span{margin-right:10px;white-space:nowrap}
.none{text-align:center;color:#8e8e99;padding:24px 12px}
table{border-collapse:collapse;margin:4px 8px}td,th{padding:3px 14px 3px 0;text-align:left}
svg text{fill:#8e8e99;font-size:10px}
"""


def number(value, unit, decimals=None):
    """A value in its unit, as short as it can be read."""
    def short(v, base=1000, names=("", " K", " M", " G")):
        step = 0
        while abs(v) >= base and step < len(names) - 1:
            v, step = v / base, step + 1
        places = decimals if decimals is not None else 0 if abs(v) >= 100 or v == round(v) else 1 if abs(v) >= 10 else 2
        return f"{v:.{places}f}".rstrip("0").rstrip(".") + names[step] if places else f"{v:.0f}{names[step]}"

    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f}".removesuffix(".0") + " %"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s"
    if unit == "bytes":
        return short(value, 1024, (" B", " KiB", " MiB", " GiB"))
    return short(value) + {"ops": "/s", "reqps": "/s", "cpm": "/min"}.get(unit, "")


class Drawing:
    """One panel with its data, as HTML."""

    def __init__(self, panel, prometheus, marks, start, end):
        self.panel, self.prometheus, self.marks, self.start, self.end = panel, prometheus, marks, start, end
        place = panel.place
        self.width = place["w"] * WIDTH // 24 - GAP
        self.height = place["h"] * CELL - GAP
        self.defaults = panel.json["fieldConfig"]["defaults"]
        self.unit, self.decimals = self.defaults["unit"], self.defaults.get("decimals")

    def html(self, top):
        x, y = self.panel.place["x"] * WIDTH // 24, top + self.panel.place["y"] * CELL
        kinds = {"timeseries": self.lines, "stat": self.stat, "state-timeline": self.states, "table": self.table}
        size = f"left:{x}px;top:{y}px;width:{self.width}px;height:{self.height}px"
        return f'<div class="panel" style="{size}"><b>{html.escape(self.panel.title)}</b>{kinds[self.panel.type]()}</div>'

    def ask(self):
        """All series of all targets: [(legend, [(time, value)])]"""
        found = []
        step = max(2, (self.end - self.start) / POINTS)
        rate, window = f"{max(16, int(4 * step))}s", f"{int(self.end - self.start)}s"
        for target in self.panel.json["targets"]:
            asked = expressions.filled_in(target["expr"], window, rate)
            for labels, points in self.prometheus.over(asked, self.start, self.end, step):
                name = re.sub(r"\{\{(\w+)\}\}", lambda m: labels.get(m[1], ""), target["legendFormat"])
                found.append((name, [(t, v) for t, v in points if v == v]))
        return sorted(found)

    def nothing(self):
        why = self.defaults.get("noValue") or ("nothing: " + self.panel.empty_by_design if self.panel.empty_by_design else "no data")
        return f'<div class="none">{html.escape(why)}</div>'

    def lines(self):
        series = self.ask()
        if not series:
            return self.nothing()
        stacked = "stacking" in self.defaults.get("custom", {})
        drawn = stack(series) if stacked else [(name, points, None) for name, points in series]
        left, right, top, bottom = 58, self.width - 10, 6, self.height - 26 - 48
        values = [v for _, points, _ in drawn for _, v in points]
        low = min([*values, self.defaults.get("min", min(values))])
        high = max([*values, low + 1e-9])
        high = min(high * 1.1 - low * 0.1 if high > low + 2e-9 else low + 1, max(self.defaults.get("max", high * 2 + 1), max(values)))

        def at(t, v):
            x = left + (t - self.start) / (self.end - self.start) * (right - left)
            return f"{x:.1f},{bottom - (v - low) / (high - low) * (bottom - top):.1f}"

        parts = []
        for tick in ticks(low, high, self.unit, self.decimals == 0):
            y = at(self.start, tick).split(",")[1]
            parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#2a2d33"/>')
            label = number(tick, self.unit)
            parts.append(f'<text x="{left - 5}" y="{float(y) + 3}" text-anchor="end">{label}</text>')
        for i in range(5):
            t = self.start + (self.end - self.start) * i / 4
            anchor = ("start", "middle", "middle", "middle", "end")[i]
            x = at(t, low).split(",")[0]
            clock = time.strftime("%H:%M", time.gmtime(t))
            parts.append(f'<text x="{x}" y="{bottom + 13}" text-anchor="{anchor}">{clock}</text>')
        if self.defaults.get("custom", {}).get("thresholdsStyle"):
            for step in self.defaults["thresholds"]["steps"]:
                if step["value"] is not None and low <= step["value"] <= high and step["color"] != "green":
                    y = at(self.start, step["value"]).split(",")[1]
                    colour = NAMED[step["color"]]
                    parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="{colour}" stroke-dasharray="6 4"/>')
        for t, colour in self.marks:
            x = at(t, low).split(",")[0]
            parts.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" stroke="{NAMED[colour]}" stroke-dasharray="2 3"/>')
        for i, (_, points, below) in reversed(list(enumerate(drawn))):
            colour = COLOURS[i % len(COLOURS)]
            for part in unbroken(points, (self.end - self.start) / POINTS):
                line = " ".join(at(t, v) for t, v in part)
                if below:
                    base = " ".join(at(t, below.get(t, low)) for t, _ in reversed(part))
                    parts.append(f'<polygon points="{line} {base}" fill="{colour}" fill-opacity=".5"/>')
                parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        return self.svg(parts, self.height - 26 - 30) + legend([name for name, _ in series])

    def svg(self, parts, height):
        return f'<svg width="{self.width}" height="{height}">{"".join(parts)}</svg>'

    def stat(self):
        series = self.ask()
        if not series:
            return self.nothing()
        cells = []
        for name, points in series[:6]:
            value = points[-1][1]
            shown = html.escape(number(value, self.unit, self.decimals))
            small = f'<div style="color:#8e8e99">{html.escape(name)}</div>' if len(series) > 1 else ""
            size = 34 if len(series) == 1 else 19
            cells.append(f'<div style="font-size:{size}px;color:{self.colour(value)}">{shown}</div>{small}')
        return f'<div style="text-align:center;padding-top:{8 if len(series) == 1 else 2}px">{"".join(cells)}</div>'

    def colour(self, value):
        colour = "green"
        for step in self.defaults["thresholds"]["steps"]:
            if step["value"] is None or value >= step["value"]:
                colour = step["color"]
        for mapping in self.defaults.get("mappings", []):
            colour = mapping["options"].get(f"{value:.0f}", {}).get("color", colour)
        return NAMED.get(colour, colour)

    def states(self):
        series = self.ask()
        if not series:
            return self.nothing()
        left, room = 150 if self.width > 300 else 80, self.height - 26 - 34
        high = min(26, room / len(series))
        parts, seen = [], {}
        step = (self.end - self.start) / POINTS
        for i, (name, points) in enumerate(series):
            y = 4 + i * high
            parts.append(f'<text x="{left - 6}" y="{y + high / 2 + 3}" text-anchor="end">{html.escape(name)}</text>')
            scale = (self.width - left - 10) / (self.end - self.start)
            for part in unbroken(points, step):
                for value, run in itertools.groupby(part, key=lambda point: point[1]):
                    times = [t for t, _ in run]
                    x, wide = left + (times[0] - self.start) * scale, (times[-1] - times[0] + step) * scale
                    parts.append(
                        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high - 3:.1f}" fill="{self.colour(value)}"/>'
                    )
                    seen[value] = self.colour(value)
        for i in range(3):
            clock = time.strftime("%H:%M", time.gmtime(self.start + (self.end - self.start) * i / 2))
            x = left + (self.width - left - 10) * i / 2
            parts.append(f'<text x="{x}" y="{room + 14}" text-anchor="{("start", "middle", "end")[i]}">{clock}</text>')
        texts = self.defaults["mappings"][0]["options"]
        named = [(texts.get(f"{value:.0f}", {"text": f"{value:.0f}"})["text"], colour) for value, colour in sorted(seen.items())]
        return self.svg(parts, room + 18) + legend([name for name, _ in named], [colour for _, colour in named], 14)

    def table(self):
        rows = self.prometheus.now(expressions.filled_in(self.panel.expressions[0], "1h"), self.end)
        hidden = self.panel.json["transformations"][0]["options"]["excludeByName"]
        heads = sorted({name for labels, _ in rows for name in labels if not hidden.get(name)})
        body = "".join("<tr>" + "".join(f"<td>{html.escape(labels.get(h, ''))}</td>" for h in heads) + "</tr>" for labels, _ in rows)
        return f'<table><tr>{"".join(f"<th>{h}</th>" for h in heads)}</tr>{body}</table>'


def stack(series):
    base, drawn = {}, []
    for name, points in series:
        below = {t: base.get(t, 0.0) for t, _ in points}
        drawn.append((name, [(t, v + below[t]) for t, v in points], below))
        base |= {t: v + below[t] for t, v in points}
    return drawn


def unbroken(points, step):
    parts, last = [], None
    for t, v in points:
        if last is None or t - last > 1.5 * max(step, 2):
            parts.append([])
        parts[-1].append((t, v))
        last = t
    return parts


def ticks(low, high, unit, whole):
    """At most five round numbers, as people count in that unit."""
    size = 10.0 ** int(f"{(high - low) / 3:e}".split("e")[1])
    sizes = [size * m for m in (1, 2, 5, 10, 20)]
    if unit == "bytes" and high > 1024:
        sizes = [2.0**n for n in range(10, 50)]
    elif unit == "s" and high > 60:
        sizes = [15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 604800]
    size = next(size for size in sizes if (high - low) / size <= 4.5 and (size >= 1 or not whole))
    first = int(low / size) * size
    return [first + i * size for i in range(7) if low - size * 1e-6 <= first + i * size <= high]


def legend(names, colours=COLOURS, height=28):
    each = (f'<span><i style="background:{colours[i % len(colours)]}"></i>{html.escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="legend" style="height:{height}px">{"".join(each)}</div>'


def marks(board, prometheus, start, end):
    """When what the dashboard's annotations tell of began."""
    found, step = [], max(2, (end - start) / POINTS)
    for each in board.json["annotations"]["list"]:
        if "expr" not in each:
            continue
        for _, points in prometheus.over(expressions.filled_in(each["expr"], "1h"), start, end, step):
            found += [(part[0][0], each["iconColor"]) for part in unbroken(points, step) if part[0][0] > start + 2 * step]
    return found


def draw(board, prometheus, start, end, out):
    top = 44
    height = top + max(p["y"] + p["h"] for p in (panel["gridPos"] for panel in board.json["panels"])) * CELL
    when = [time.strftime("%H:%M", time.gmtime(t)) for t in (start, end)]
    body = [f"<h1>{html.escape(board.json['title'])} <span style='color:#8e8e99;font-size:12px'>{when[0]} to {when[1]} UTC</span></h1>"]
    for row in board.rows:
        body.append(f'<div class="row" style="top:{top + row["gridPos"]["y"] * CELL + 6}px">{html.escape(row["title"])}</div>')
    seen = marks(board, prometheus, start, end)
    body += [Drawing(panel, prometheus, seen, start, end).html(top) for panel in board.panels]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{''.join(body)}")
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        subprocess.run(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile",
             f"--window-size={WIDTH},{height}", f"--screenshot={out}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )
    Image.open(out).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(out, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", metavar="URL", required=True)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    arguments = parser.parse_args()
    prometheus, end = expressions.Prometheus(arguments.prometheus), time.time()
    for board in dashboards():
        out = arguments.out.resolve() / f"dashboard-{board.uid.removeprefix('roomgate-')}.png"
        draw(board, prometheus, end - 60 * arguments.minutes, end, out)
        print(f"{out.name}: {out.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
