"""Sees every script pass, and fail when the gateway is 300 ms late:
`make load-proof`.

Each run has a cluster of its own and goes through the delaying proxy, once with
0 and once with 300 ms, so that these 300 ms are all that differs. What then
fails must be a bound on time, and never one on correctness. Prints a table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster import ROOT

HERE = Path(__file__).resolve().parent
LATE_MS = 300
# Short forms; `--fault` makes `failover` what it is.
SHORT = {
    "smoke": ({}, []),
    "draw": ({"DURATION": "20s"}, []),
    "crowd": ({"DURATION": "20s", "SESSIONS": "5"}, []),
    "storm": ({"DURATION": "40s", "ROUNDS": "2"}, []),
    "history": ({"DURATION": "20s"}, []),
    "soak": ({"DURATION": "30s", "THINK_MS": "1500", "STAY_MS": "10000"}, []),
    "failover": ({"DURATION": "30s"}, ["--fault", "kill-node", "--after", "12"]),
}


def run(script, delay_ms, binary):
    """The report of one run."""
    settings, more = SHORT[script]
    with tempfile.TemporaryDirectory(prefix="roomgate-proof-") as out:
        command = [
            sys.executable, HERE / "run.py", script, "--delay", str(delay_ms),
            "--binary", binary, "--out", out, *more,
        ]  # fmt: skip
        pairs = [f"{key}={value}" for key, value in settings.items()]
        done = subprocess.run(["env", *pairs, *command], capture_output=True, text=True, check=False)
        report = Path(out) / f"{script}.json"
        if not report.exists():
            sys.exit(f"{script} has no report:\n{done.stdout}{done.stderr}")
        return json.loads(report.read_text())


def crossed(report):
    return [f"{each['metric']} {each['bound']}" for each in report["thresholds"] if not each["ok"]]


def is_time(bound):
    metric = bound.split(" ")[0].split("{")[0]
    return metric.endswith(("_ms", "_in_time"))


def figure(report, metric, key):
    value = report["figures"].get(metric, {}).get(key)
    return "" if value is None else f"{value:.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("scripts", nargs="*", choices=[*SHORT, []], help="default: all")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/roomgate")
    options = parser.parse_args()
    print("| script | late by | submit→ack p50, p99 ms | commit→delivery p50, p99 ms | crossed |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    good = True
    for script in options.scripts or SHORT:
        for delay_ms in (0, LATE_MS):
            report = run(script, delay_ms, options.binary)
            failed = crossed(report)
            good &= all(map(is_time, failed)) and bool(failed) == (delay_ms > 0)
            latency = [
                ", ".join(figure(report, metric, key) for key in ("med", "p(99)"))
                for metric in ("submit_ack_ms", "commit_delivery_ms")
            ]
            whole = [bound for bound in failed if "{node:" not in bound]
            print(f"| {script} | {delay_ms} ms | {' | '.join(latency)} | {'; '.join(whole) or 'none'} |", flush=True)
    sys.exit(0 if good else "a script passed or failed that must not, or not for this")


if __name__ == "__main__":
    main()
