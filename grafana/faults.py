"""Ten faults, one after another, in a cluster with people in it: which alert fires
after how long, and which panel shows it. Writes the table of
docs/faults-and-alerts.md: `make alerts-proof`, about 35 minutes.

Usage: faults.py --binary PATH --k6 PATH [--only NAME…]; faults.py --list

Exit status 0 only if every fault raised all the alerts that it must.
"""

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import expressions
from boards import dashboards
from injections import FAULTS
from lab import LOAD, READERS, READS_PAUSE_S, ROOT, Lab

DOCUMENT = ROOT / "docs/faults-and-alerts.md"
BEGIN, END = "<!-- from here to the end of the table: written by grafana/faults.py -->\n", "<!-- end of the table -->\n"
EVALUATED_EVERY_S = 2
# Rates over a minute are whole, and the start is over.
WARM_UP_S = 90
# The slowest of these alerts wants to see a disk full for 5 minutes, and disks are looked at every 30 s.
PATIENCE_S = 480
# What was repaired last is seen to be well by a few scrapes.
SETTLE_S = 15
# Longer than a rate over 5 minutes remembers.
CALM_S = 480
HEAD = """\
| fault | fires | seen, fired, after s | over, s after the repair | panel: before → when it fired | fired as well, after s |
| --- | --- | --- | --- | --- | --- |
"""
# As one thinks of them: databases, Redis, clients, nodes.
ROWS = ["replica-paused", "primary-frozen", "redis-killed", "slow-client-crowd", "pool-exhausted", "node-killed",
        "disk-full", "bad-config", "clock-jump", "hot-room"]  # fmt: skip


@dataclass
class Episode:
    """One time that one alert was active."""

    name: str
    labels: dict
    seen_at: float
    fired_at: float | None
    over_at: float


@dataclass
class Run:
    """One fault: when it was there, by the wall clock."""

    fault: object
    began_at: float
    repaired_at: float
    missing: set


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/roomgate")
    parser.add_argument("--k6", type=Path, default=ROOT / "target/loadtest/bin/k6")
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="these faults; no table is written")
    parser.add_argument("--list", action="store_true", help="the faults and the alerts that must fire")
    options = parser.parse_args()
    if options.list:
        for fault in FAULTS:
            print(f"{fault.name}: {', '.join(fault.alerts)}: {fault.done}")
        return
    chosen = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    # As Ctrl-C: the cluster is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    with Lab(options.binary.resolve(), options.k6.resolve()) as lab:
        rows, missing = proof(lab, chosen)
    table = HEAD + "".join(rows[name] for name in ROWS if name in rows)
    print(table)
    if not options.only:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text(f"{before}{BEGIN}\n{conditions(options.binary)}{table}\n{END}{after}")
    sys.exit(f"not as it must be: {', '.join(missing)}" if missing else 0)


def proof(lab, faults):
    say(f"{lab.parts['prometheus']['url']}/user/live/ shows it; {WARM_UP_S} s to warm up")
    time.sleep(WARM_UP_S)
    began = time.time()
    runs, missing = [], []
    for fault in faults:
        try:
            runs.append(run(lab, fault))
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            say(f"{fault.name}: {error}")
            missing.append(f"{fault.name}: {error}")
    say("waiting until all is over")
    left = quiet(lab, {alert for fault in faults for alert in fault.alerts})
    episodes = history(lab.prometheus, began)
    rows = {}
    for one, following in zip(runs, [*runs[1:], None]):
        until = following.began_at if following else time.time()
        its_own = [each for each in episodes if one.began_at <= each.seen_at < until]
        rows[one.fault.name] = row(lab, one, its_own, left)
    missing += [f"{alert} ({one.fault.name})" for one in runs for alert in sorted(one.missing)]
    missing += [f"{alert} (not over {CALM_S} s after the last repair)" for alert in sorted(left)]
    return rows, missing


def run(lab, fault):
    if left := quiet(lab, fault.alerts):
        raise RuntimeError(f"{fault.name} would say nothing: {left} are active since before")
    time.sleep(SETTLE_S)
    say(f"{fault.name}: {fault.done}")
    with fault.inject(lab):
        say(f"{fault.name}: it is there")
        missing = watch(lab, fault)
        say(f"{fault.name}: repairing")
    say(f"{fault.name}: repaired")
    return Run(fault, lab.injected_at, time.time(), missing)


def watch(lab, fault):
    """Until all alerts of the fault fire; those that don't in time."""
    missing, states = set(fault.alerts), {}
    while missing and time.time() < lab.injected_at + PATIENCE_S:
        time.sleep(1)
        for alert in active(lab):
            name, state = alert["labels"]["alertname"], alert["state"]
            if states.get(name) not in (state, "firing"):
                say(f"  {time.time() - lab.injected_at:5.0f} s {name} {state}")
                states[name] = state
            if state == "firing":
                missing.discard(name)
    # A panel asks for the last scrape.
    time.sleep(2 * EVALUATED_EVERY_S)
    return missing


def quiet(lab, names):
    """Waits until none of these alerts is active; those that are for too long."""
    deadline = time.time() + CALM_S
    while left := {alert["labels"]["alertname"] for alert in active(lab)} & set(names):
        if time.time() > deadline:
            return left
        time.sleep(1)
    return set()


def active(lab):
    return lab.prometheus.get("alerts")["alerts"]


def history(prometheus, since):
    """All that was active since then, by the samples that Prometheus wrote of its alerts."""
    now = time.time()
    series = prometheus.get("query", query=f"ALERTS[{now - since:.0f}s]", time=now)["result"]
    times = {}
    for each in series:
        labels = {key: value for key, value in each["metric"].items() if key not in ("__name__", "alertstate")}
        firing = each["metric"]["alertstate"] == "firing"
        times.setdefault(tuple(sorted(labels.items())), []).extend((float(at), firing) for at, _ in each["values"])
    return [episode for labels, points in times.items() for episode in episodes_of(dict(labels), sorted(points))]


def episodes_of(labels, points):
    """`points`: (time, whether it fired), one an evaluation."""
    parts = []
    for at, firing in points:
        if not parts or at - parts[-1][-1][0] > 2.5 * EVALUATED_EVERY_S:
            parts.append([])
        parts[-1].append((at, firing))
    for part in parts:
        fired = next((at for at, firing in part if firing), None)
        yield Episode(labels["alertname"], labels, part[0][0], fired, part[-1][0] + EVALUATED_EVERY_S)


# ------------------------------------------------------------------------ table


def row(lab, one, episodes, left):
    # Of several series the first that fired speaks for the alert.
    first = {}
    for episode in sorted((each for each in episodes if each.fired_at), key=lambda each: each.fired_at):
        first.setdefault(episode.name, episode)
    fired, timing, over = [], [], []
    for name in one.fault.alerts:
        episode = first.pop(name, None)
        page = " (page)" if episode and "page" in episode.labels else ""
        fired.append(f"**[{name}](runbook.md#{name.lower()})**{page}")
        timing.append(f"{episode.seen_at - one.began_at:.0f}, {episode.fired_at - one.began_at:.0f}" if episode
                      else f"**did not fire** in {one.repaired_at - one.began_at:.0f} s")  # fmt: skip
        over.append(over_after(one, episodes, name, left))
        if episode:
            shown_at = episode.fired_at
    panels = shown(lab, one, shown_at) if len(one.missing) < len(one.fault.alerts) else ["–"]
    others = [f"{name} {episode.fired_at - one.began_at:.0f}" for name, episode in first.items()]
    cells = [f"**{one.fault.name}**: {one.fault.done}", "<br>".join(fired), "<br>".join(timing), "<br>".join(over),
             "<br>".join(panels), ", ".join(others) or "–"]  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def over_after(one, episodes, name, left):
    ends = [each.over_at for each in episodes if each.name == name and each.fired_at]
    if not ends:
        return "–"
    after = max(0, max(ends) - one.repaired_at)
    return f"not in {after:.0f}" if name in left else f"{after:.0f}"


def shown(lab, one, at):
    """What each panel says before the fault and when its last alert fired."""
    for board, title, labels in one.fault.panels:
        panel = next(p for b in dashboards() if b.name == board for p in b.panels if p.title == title)
        then, now = (values(lab, panel, labels, when) for when in (one.began_at - EVALUATED_EVERY_S, at))
        # The series that tells is the one that changed most.
        series = max(then.keys() | now.keys(), key=lambda key: change(then.get(key), now.get(key)), default=None)
        unit = panel.json["fieldConfig"]["defaults"]["unit"]
        yield f"*{board}*, *{title}*: {text(then.get(series), unit)} → {text(now.get(series), unit)}"


def values(lab, panel, labels, at):
    found = {}
    for i, expression in enumerate(panel.expressions):
        for names, value in lab.prometheus.now(expressions.filled_in(expression, "1h"), at):
            if labels.items() <= names.items():
                found[(i, *sorted(names.items()))] = value
    return found


def change(before, after):
    return abs((after or 0) - (before or 0))


def text(value, unit):
    if value is None:
        return "nothing"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 1e6:.3g} MB" if value >= 1e5 else f"{value / 1e3:.3g} kB"
    if unit == "s" and value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.3g}" + {"s": " s", "ops": "/s", "reqps": "/s", "cpm": "/min"}.get(unit, "")


def conditions(binary):
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    sessions = int(LOAD["VUS"]) * int(LOAD["SESSIONS"])
    reads = READERS / READS_PAUSE_S
    return (
        f"{today}, {version}, {os.cpu_count()} cores ({platform.machine()}), which the cluster, its people and Prometheus share;\n"
        f"load average at the end {load}. `roomgate dev --prometheus`: 3 nodes, 2 shards of a primary and a replica. All the\n"
        f"time {sessions} sessions draw in {LOAD['ROOMS']} rooms (loadtest/draw.js), and {reads:.0f} pages of history are read a second.\n\n"
    )


def say(what):
    print(f"{datetime.datetime.now():%H:%M:%S} {what}", flush=True)


if __name__ == "__main__":
    main()
