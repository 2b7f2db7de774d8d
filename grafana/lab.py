"""The cluster that faults.py breaks: with people in it, a Prometheus that
watches it, and what its operator would do by hand."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import expressions
from crowds import Person, Readers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "loadtest"))
from cluster import Cluster, frozen  # noqa: E402, F401

DISK_BYTES = 1_000_000_000
SETTINGS = {
    # As many as reads.primary_cap: else nothing that these people do fills a primary's pool.
    "ROOMGATE__POOL__MAX_CONNECTIONS": "8",
    # Small enough to be filled with real data.
    "ROOMGATE__SHARDS__B__ENDPOINTS__B_1__DISK_BYTES": str(DISK_BYTES),
}
LOAD = {"VUS": "4", "SESSIONS": "3", "ROOMS": "8", "DURATION": "3h", "KEEP": "1"}
READERS, READS_PAUSE_S = 2, 0.5
READY_S = 60


class Lab:
    def __init__(self, binary, k6):
        # One writer is as fast as a crowd; the room must become hot, and no limit be met.
        self.cluster = Cluster(binary, "--prometheus", "--no-limits", settings=SETTINGS)
        self.parts = self.cluster.parts
        self.prometheus = expressions.Prometheus(self.parts["prometheus"]["url"])
        # What was started by hand, by name; the rest is the cluster's.
        self.started = {}
        self.injected_at = None
        try:
            self._settle(k6)
        except BaseException:
            self.__exit__()
            raise

    def _settle(self, k6):
        command = [k6, "run", "--no-usage-report", "--address", "", "--quiet", ROOT / "loadtest/draw.js"]
        told = {"URL": self.cluster.url, "OUT": str(self.cluster.folder), **LOAD}
        self.started["k6"] = subprocess.Popen(command, env={**os.environ, **told}, **self.output("k6"))
        self.person = Person(self.cluster.url)
        self.rooms = {shard["name"]: self.room_on(i) for i, shard in enumerate(self.parts["shards"])}
        Readers(self.person, [f"/v1/rooms/{room}/events" for room in self.rooms.values()], READERS, READS_PAUSE_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started.values():
            process.kill()
            process.wait()
        self.cluster.__exit__()

    def begins(self):
        """To be called right before the fault is there."""
        self.injected_at = time.time()

    def output(self, name):
        file = open(self.cluster.folder / f"{name}.log", "a")
        return {"stdout": file, "stderr": subprocess.STDOUT}

    # ---------------------------------------------------------------- databases

    def sql(self, endpoint, statement):
        done = subprocess.run([*_psql(endpoint), "-tA", "-c", statement], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def console(self, endpoint):
        """A psql that stays connected for as long as its standard input is open."""
        return subprocess.Popen(_psql(endpoint), stdin=subprocess.PIPE, text=True, **self.output("psql"))

    def room_on(self, shard):
        """A new room that lies on this shard."""
        for _ in range(50):
            room = self.person.room()
            if self.sql(self.cluster.endpoint(shard, "primary"), f"SELECT 1 FROM room WHERE id = {int(room)}"):
                return room
        raise RuntimeError(f"50 rooms, and none lies on shard {shard}")

    # -------------------------------------------------------------------- nodes

    def node(self, index):
        return self.parts["nodes"][index]

    def configuration(self, index):
        return self.cluster.folder / f"data/nodes/{self.node(index)['name']}.toml"

    def log_of(self, index):
        """All that it has said, whoever started it."""
        files = [self.configuration(index).with_suffix(".log"), self.cluster.folder / f"{self.node(index)['name']}.log"]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def signal(self, index, number):
        name = self.node(index)["name"]
        os.kill(self.started[name].pid if name in self.started else self.node(index)["pid"], number)

    def stop(self, index):
        self.signal(index, signal.SIGTERM)
        self.until(lambda: not self.answers(index, "live"), f"{self.node(index)['name']} ends")
        if process := self.started.pop(self.node(index)["name"], None):
            process.wait()

    def serve(self, index, *, before=(), environment=None):
        """A node, started as an operator would; doesn't wait until it is ready."""
        name = self.node(index)["name"]
        command = [*before, self.cluster.binary, "serve", "--config", self.configuration(index)]
        told = {**self.cluster.environment, **(environment or {})}
        self.started[name] = subprocess.Popen(command, env=told, **self.output(name))
        return self.started[name]

    def ready(self, index):
        self.until(lambda: self.answers(index, "ready"), f"{self.node(index)['name']} is ready")

    def answers(self, index, question):
        try:
            return urllib.request.urlopen(f"{self.node(index)['admin_url']}/health/{question}", timeout=5).status == 200
        except OSError:
            return False

    def until(self, holds, what):
        deadline = time.monotonic() + READY_S
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not in {READY_S} s: {what}")
            time.sleep(0.2)


def _psql(endpoint):
    return ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", endpoint["admin_dsn"]]
