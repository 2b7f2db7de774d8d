"""Runs a load test against a cluster of its own, or a running one:
`make smoke`, `make load SCRIPT=draw [URL=…]`, `make load-proof`.

k6 reads the scripts' settings from the environment, see README.md. Exit status:
k6's own, which is 0 only if every threshold held.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

from cluster import FAULTS, LOSSY, ROOT, Cluster
from delay import DelayingProxy

HERE = Path(__file__).resolve().parent
SCRIPTS = sorted(path.stem for path in HERE.glob("*.js"))
K6 = Path(sys.executable).with_name("k6")


def k6(script, url, options, settings):
    """One run; k6's exit status."""
    options.out.mkdir(parents=True, exist_ok=True)
    command = [
        K6, "run", "--no-usage-report", "--address", "",
        *([] if sys.stdout.isatty() else ["--quiet", "--no-color"]),
        HERE / f"{script}.js",
    ]  # fmt: skip
    environment = {**os.environ, "URL": url, "OUT": str(options.out.resolve()), **settings}
    return subprocess.run(command, env=environment, check=False).returncode


def run(options):
    """Against `options.url` or a cluster for this run; k6's exit status."""
    if options.url:
        return k6(options.script, delayed(options.url, options.delay), options, {})
    with Cluster(options.binary, *(["--prometheus"] if options.alerts else [])) as cluster:
        settings = {"NODES": ",".join(cluster.nodes)}
        if options.fault in LOSSY:
            settings["LOSSY"] = "1"
        fault = Fault(options, cluster) if options.fault else None
        status = k6(options.script, delayed(cluster.url, options.delay), options, settings)
        if fault and not fault.happened():
            print(f"{options.fault} didn't happen: it was to be after {options.after} s", file=sys.stderr)
            return 1
        if options.alerts:
            fired = alerts(cluster.parts["prometheus"]["url"])
            print(f"alerts that fired: {', '.join(fired) or 'none'}")
            return status or int(bool(fired))
        return status


def alerts(prometheus):
    """The names of those that fired since it has been running."""
    asked = quote('max by (alertname) (max_over_time(ALERTS{alertstate="firing"}[1d]))')
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?query={asked}", timeout=30) as answer:
        return sorted(series["metric"]["alertname"] for series in json.load(answer)["data"]["result"])


class Fault(threading.Thread):
    """Happens to the cluster `--after` so many seconds."""

    def __init__(self, options, cluster):
        super().__init__(daemon=True)
        self.options, self.cluster = options, cluster
        self.over, self.done = threading.Event(), False
        self.start()

    def run(self):
        if not self.over.wait(self.options.after):
            FAULTS[self.options.fault](self.cluster, self.options.seconds)
            self.done = True

    def happened(self):
        """Whether it did; after this it doesn't any more."""
        self.over.set()
        self.join()
        return self.done


def delayed(url, delay_ms):
    """The same gateway with late answers, if that is asked for."""
    if delay_ms is None:
        return url
    parts = urlsplit(url)
    if parts.scheme != "http":
        sys.exit("--delay is for http://; a certificate would not fit the proxy")
    return DelayingProxy(parts.hostname, parts.port or 80, delay_ms).url


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("script", choices=SCRIPTS)
    parser.add_argument("--url", help="of a gateway or balancer that runs; default: a cluster for this run")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/roomgate")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the summaries, default loadtest/out")
    parser.add_argument("--delay", type=float, metavar="MS", help="every answer of the gateway is so late")
    parser.add_argument("--fault", choices=FAULTS, help="what happens to the cluster of this run")
    parser.add_argument("--after", type=float, default=20, metavar="S", help="when, default 20")
    parser.add_argument("--for", type=float, default=5, metavar="S", dest="seconds", help="how long something is frozen, default 5")
    parser.add_argument("--alerts", action="store_true", help="with a Prometheus beside the cluster: an alert that fires fails the run")
    options = parser.parse_args()
    if (options.fault or options.alerts) and options.url:
        parser.error("--fault and --alerts are for a cluster of this run: without --url")
    sys.exit(run(options))


if __name__ == "__main__":
    main()
