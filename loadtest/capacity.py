"""What a cluster costs, as a model that is fitted to this machine and then held
against points that it has not seen: `make capacity`. Writes the tables of
docs/capacity.md. With --people and so on: what the model says of your own crowd.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy
from scipy.optimize import minimize_scalar, nnls

from cluster import ROOT, Cluster

DOCUMENT = ROOT / "docs/capacity.md"
COSTS = ROOT / "loadtest/data/costs.json"
LANES = 4


@dataclasses.dataclass(frozen=True)
class Crowd:
    """`rooms` of `people` each, of whom `drawing` send `rate` submits a second."""

    rooms: float
    people: float
    drawing: float
    rate: float

    @property
    def sessions(self):
        return self.rooms * self.people

    @property
    def submits(self):
        return self.rooms * self.drawing * self.rate


# What teaches one cost each, and some of everything; none keeps the machine so busy
# that what waits for a core changes what is measured.
LESSONS = [
    Crowd(1, 3, 0, 0),
    Crowd(100, 30, 0, 0),
    Crowd(1000, 3, 0, 0),
    Crowd(60, 1, 1, 1),
    Crowd(100, 1, 1, 2),
    Crowd(100, 1, 1, 4),
    Crowd(100, 3, 1, 4),
    Crowd(100, 10, 1, 4),
    Crowd(30, 30, 1, 10),
    Crowd(20, 100, 1, 5),
]
# What it has to foretell.
EXAMS = [Crowd(60, 8, 1, 5), Crowd(25, 40, 2, 3)]
# Of whom one in ten draws, four changes a second: docs/capacity.md, "Of whom".
SIZES = [10_000, 1_000_000, 100_000_000]
ORDINARY = {"people": 10, "drawing": 1, "rate": 4}


def measured(cluster, crowd, seconds):
    """What `examples/load` counted, all of it a second."""
    command = [
        cluster.load, "--dev", cluster.folder / "data/dev.json", "--json", "people",
        "--rooms", str(crowd.rooms), "--people", str(crowd.people), "--drawing", str(crowd.drawing),
        "--rate", str(crowd.rate), "--seconds", str(seconds),
    ]  # fmt: skip
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"  {crowd}: {told['submits']:.0f} submits/s, {told['delivered']:.0f} deliveries/s", flush=True)
    return told


def nodes_of_a_room(crowd, nodes, in_turn):
    """How many nodes have a session of it."""
    if in_turn:
        return min(crowd.people, nodes)
    return nodes * (1 - (1 - 1 / nodes) ** crowd.people)


def batches(arrivals, servers, seconds_each):
    """A second, of servers that take all that waits when they are free: of random
    arrivals, a share exp(-rate × time) of batches leaves nobody waiting."""
    rate = arrivals / servers
    if rate == 0:
        return 0
    return servers / (seconds_each + math.exp(-rate * seconds_each) / rate)


def counts(crowd, nodes, shards, costs, in_turn=False):
    """How often a second what happens that costs something."""
    spread = nodes_of_a_room(crowd, nodes, in_turn)
    transactions = batches(crowd.submits, LANES * nodes * shards, costs["transaction_s"])
    return {
        "node": nodes,
        "shard": shards,
        "session": crowd.sessions,
        "room on a node": crowd.rooms * spread,
        "submit": crowd.submits,
        "transaction": transactions,
        "announcement": crowd.submits,
        "announcement heard": crowd.submits * spread,
        "delivery": crowd.submits * crowd.people,
        # The announcements of a transaction come to Redis together.
        "wake-up": batches(transactions, 1, costs["wake_up_s"]),
    }


# What each part of a cluster spends its time on.
PARTS = {
    "node_cpu": ["node", "session", "room on a node", "transaction", "submit", "announcement heard", "delivery"],
    "primary_cpu": ["shard", "room on a node", "transaction", "submit"],
    "replica_cpu": ["shard", "transaction", "submit"],
    "redis_cpu": ["node", "wake-up"],
}
# Beside these, and too little to be learned where Redis sleeps most of the time:
# redis-benchmark, SPUBLISH of 400 bytes, 8 at a time, to nobody and to 3.
REDIS_S = {"announcement": 2.5e-6, "announcement heard": 1.0e-6}


def fitted(points):
    """Seconds of CPU for one of each, never negative; the closest relative fit."""

    drawing = [p for p in points if p["crowd"]["drawing"]]

    def misses(seconds_each):
        told = [(batches(p["submits"], LANES * p["nodes"] * p["shards"], seconds_each), p) for p in drawing]
        return sum((guess / p["transactions"] - 1) ** 2 for guess, p in told)

    def closest(miss):
        return float(minimize_scalar(miss, bounds=(1e-5, 0.1), method="bounded").x)

    transaction_s = closest(misses)

    def times(wake_up_s):
        return {"transaction_s": transaction_s, "wake_up_s": wake_up_s}

    costs = times(closest(lambda wake_up_s: solved(points, "redis_cpu", times(wake_up_s))[1]))
    return {**costs, **{part: solved(points, part, costs)[0] for part in PARTS}}


def solved(points, part, costs):
    """What one of each costs this part, and how far off that leaves it."""
    rows, results = [], []
    for point in points:
        seen = {
            **counts(Crowd(**point["crowd"]), point["nodes"], point["shards"], costs, in_turn=True),
            "submit": point["submits"],
            "transaction": point["transactions"],
            "announcement": point["published"],
            "announcement heard": point["received"],
            "delivery": point["delivered"],
            "wake-up": batches(point["transactions"], 1, costs["wake_up_s"]),
        }
        weight = 1 / max(point[part], 0.005)
        rows.append([seen[cause] * weight for cause in PARTS[part]])
        known = REDIS_S["announcement"] * point["published"] + REDIS_S["announcement heard"] * point["received"]
        results.append((point[part] - (known if part == "redis_cpu" else 0)) * weight)
    solution, off = nnls(numpy.array(rows), numpy.array(results))
    return dict(zip(PARTS[part], map(float, solution), strict=True)), off


def foretold(costs, crowd, nodes, shards, in_turn=False):
    """Seconds of CPU a second of each part."""
    many = counts(crowd, nodes, shards, costs, in_turn)
    spent = {part: sum(cost * many[cause] for cause, cost in costs[part].items()) for part in PARTS}
    spent["redis_cpu"] += sum(cost * many[cause] for cause, cost in REDIS_S.items())
    return spent


def planned(costs, people, per_room, drawing, rate, hardware):
    """The cluster for so many, each machine used up to a share of what it has."""
    crowd = Crowd(people / per_room, per_room, drawing, rate)
    nodes, shards = 3, 1
    # More nodes hear more, more shards make smaller batches: until nothing grows.
    while True:
        spent = foretold(costs, crowd, nodes, shards)
        enough_nodes = max(
            3,
            math.ceil(spent["node_cpu"] / (hardware.node_cores * hardware.use)),
            math.ceil(crowd.sessions / hardware.sessions),
        )
        enough_shards = max(1, math.ceil(spent["primary_cpu"] / (hardware.shard_cores * hardware.use)))
        if enough_nodes <= nodes and enough_shards <= shards:
            break
        nodes, shards = max(nodes, enough_nodes), max(shards, enough_shards)
    return {
        "crowd": crowd, "nodes": nodes, "shards": shards,
        "redis": max(1, math.ceil(spent["redis_cpu"] / hardware.use)),
        "connections": nodes * LANES,
        "batch": crowd.submits / max(counts(crowd, nodes, shards, costs)["transaction"], 1e-9),
        **spent,
    }  # fmt: skip


def percent(told, was):
    return f"{100 * (told / was - 1):+.0f} %"


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]) + "\n"


def costs_table(costs):
    rows = []
    for part, causes in costs.items():
        if part in PARTS:
            rows += [[part.replace("_", " "), cause, f"{1e6 * cost:.1f}"] for cause, cost in causes.items()]
    rows += [["redis cpu", cause, f"{1e6 * cost:.1f}"] for cause, cost in REDIS_S.items()]
    return table(["part", "of each", "µs"], rows)


def exams_table(costs, points):
    rows, worst = [], 0.0
    for point in points:
        crowd = Crowd(**point["crowd"])
        told = foretold(costs, crowd, point["nodes"], point["shards"], in_turn=True)
        for part in PARTS:
            worst = max(worst, abs(told[part] / point[part] - 1))
            name = f"{crowd.rooms} rooms of {crowd.people}, {crowd.drawing} drawing {crowd.rate}/s"
            rows.append([name, part.replace("_", " "), f"{told[part]:.3f}", f"{point[part]:.3f}", percent(told[part], point[part])])
    return table(["crowd", "what", "foretold", "measured", "off by"], rows), worst


def sizes_table(costs, hardware):
    rows = []
    for people in SIZES:
        plan = planned(costs, people, ORDINARY["people"], ORDINARY["drawing"], ORDINARY["rate"], hardware)
        rows.append([
            f"{people:,}".replace(",", " "), f"{plan['crowd'].submits:,.0f}".replace(",", " "), plan["nodes"], plan["shards"], plan["redis"],
            f"{plan['batch']:.1f}", f"{plan['connections']:,}".replace(",", " "), f"{16384 / plan['shards']:.1f}",
        ])  # fmt: skip
    head = ["people", "submits/s", "nodes", "shards", "Redis cores", "submits a transaction", "writing connections at a shard", "slots a shard"]
    return table(head, rows)


def write(name, text):
    document = DOCUMENT.read_text()
    begin, end = f"<!-- {name}: written by loadtest/capacity.py -->\n", "<!-- end -->"
    before, _, rest = document.partition(begin)
    if not rest:
        sys.exit(f"{DOCUMENT} has no place for {name}")
    DOCUMENT.write_text(before + begin + text + rest[rest.index(end) :])


def points(options, crowds):
    """Each of them, on one cluster."""
    with Cluster(options.binary, "--no-limits") as cluster:
        cluster.load = options.load
        return [{"crowd": dataclasses.asdict(c), **measured(cluster, c, options.seconds)} for c in crowds]


def learn(options):
    lessons = points(options, LESSONS)
    costs = fitted(lessons)
    costs["measured"] = f"{datetime.date.today()}, {os.cpu_count()} cores, {options.seconds} s a point"
    COSTS.write_text(json.dumps({**costs, "lessons": lessons}, indent=1) + "\n")


def examine(options):
    """What is foretold is measured after what it is foretold from."""
    costs = json.loads(COSTS.read_text())
    examined, worst = exams_table(costs, points(options, EXAMS))
    learned = f"{costs['measured']}; a transaction took {1e3 * costs['transaction_s']:.1f} ms.\n\n{costs_table(costs)}"
    planned_sizes = sizes_table(costs, options)
    write("costs", learned)
    write("exams", examined)
    write("sizes", planned_sizes)
    print(learned, examined, planned_sizes, sep="\n")
    if worst > 0.25:
        sys.exit(f"the model is off by {100 * worst:.0f} %: more than a quarter")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/roomgate")
    parser.add_argument("--load", type=Path, default=ROOT / "target/release/examples/load")
    parser.add_argument("--seconds", type=int, default=30, help="of each point, default 30")
    parser.add_argument("--exam", action="store_true", help="measure only what the model of last time has to foretell")
    parser.add_argument("--people", type=float, help="tell of so many, measure nothing")
    parser.add_argument("--per-room", type=float, default=ORDINARY["people"], help="default 10")
    parser.add_argument("--drawing", type=float, default=ORDINARY["drawing"], help="in each room at a time, default 1")
    parser.add_argument("--rate", type=float, default=ORDINARY["rate"], help="submits a second of each of these, default 4")
    parser.add_argument("--node-cores", type=float, default=4, help="default 4")
    parser.add_argument("--shard-cores", type=float, default=8, help="default 8")
    parser.add_argument("--sessions", type=float, default=50_000, help="at most on a node, default 50 000")
    parser.add_argument("--use", type=float, default=0.5, help="of what a machine has, default 0.5")
    options = parser.parse_args()
    if options.people is None:
        if not options.exam:
            learn(options)
        examine(options)
    else:
        costs = json.loads(COSTS.read_text())
        plan = planned(costs, options.people, options.per_room, options.drawing, options.rate, options)
        print("\n".join(f"{name:>14}  {value}" for name, value in plan.items()))


if __name__ == "__main__":
    main()
