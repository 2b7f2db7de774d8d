"""The ten faults of faults.py: how each is injected and repaired, which alerts
must say so, and where it is to be seen."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from crowds import Readers, SlowReaders, Writers
from lab import DISK_BYTES, frozen

JUMP_S = 600
# Less than writes.lock_timeout_ms.
LOCKED_S = 0.12
# Of whom enough wait for their turn that no connection ever rests.
READING = 90
# What db_disk_used_ratio counts.
DISK_USED = "SELECT (SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace) + (SELECT sum(size) FROM pg_ls_waldir())"
FAKETIME = "/usr/lib/*-linux-gnu/faketime/libfaketimeMT.so.1"


@dataclass
class Fault:
    name: str
    # For the table.
    done: str
    # Calls lab.begins() when the fault is there; repairs it in the end.
    inject: Callable
    # All of them must fire.
    alerts: list[str]
    # (dashboard, panel, labels of the series that tells).
    panels: list[tuple[str, str, dict]] = field(default_factory=list)


@contextlib.contextmanager
def replica_paused(lab):
    replica = lab.cluster.endpoint(0, "replica")
    lab.begins()
    lab.sql(replica, "SELECT pg_wal_replay_pause()")
    yield
    lab.sql(replica, "SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def primary_frozen(lab):
    server = lab.cluster.endpoint(1, "primary")["pid"]
    lab.begins()
    with frozen(server):
        yield


@contextlib.contextmanager
def redis_killed(lab):
    lab.begins()
    os.kill(lab.parts["redis"]["pid"], signal.SIGKILL)
    yield
    port = lab.parts["redis"]["url"].rsplit(":", 1)[1].strip("/")
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    lab.started["redis"] = subprocess.Popen(command, cwd=lab.cluster.folder, **lab.output("redis"))


@contextlib.contextmanager
def slow_client_crowd(lab):
    room = lab.room_on(0)
    lab.begins()
    with contextlib.closing(SlowReaders(lab.node(1)["url"], room, lab.person, 40)):
        yield


@contextlib.contextmanager
def pool_exhausted(lab):
    """Statements wait for a lock, and get it: those that don't make the breaker keep people away from the pool."""
    primary = lab.cluster.endpoint(1, "primary")
    lock = f"LOCK TABLE room_event IN ACCESS EXCLUSIVE MODE; PERFORM pg_sleep({LOCKED_S}); COMMIT;"
    path = f"/v1/rooms/{lab.rooms['b']}/events?freshness=primary"
    lab.begins()
    with lab.console(primary) as console, contextlib.closing(Readers(lab.person, [path], READING, 0)):
        console.stdin.write(f"DO $$ BEGIN LOOP {lock} END LOOP; END $$;\n")
        console.stdin.flush()
        yield
        lab.sql(primary, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO %LOCK TABLE%'")


@contextlib.contextmanager
def node_killed(lab):
    lab.begins()
    lab.signal(2, signal.SIGKILL)
    yield
    lab.serve(2)
    lab.ready(2)


@contextlib.contextmanager
def disk_full(lab):
    primary = lab.cluster.endpoint(1, "primary")
    # Neither compressed nor logged: only this server's disk fills.
    lab.sql(primary, "CREATE UNLOGGED TABLE filler (n int, stuff text)")
    lab.sql(primary, "ALTER TABLE filler ALTER stuff SET STORAGE PLAIN")
    rows = (0.9 * DISK_BYTES - int(lab.sql(primary, DISK_USED))) // 8192
    lab.begins()
    lab.sql(primary, f"INSERT INTO filler SELECT n, repeat('x', 7000) FROM generate_series(1, {rows:.0f}) n")
    yield
    lab.sql(primary, "DROP TABLE filler")


@contextlib.contextmanager
def bad_configuration(lab):
    file = lab.configuration(1)
    good = file.read_text()
    bad = re.sub(r"^drain_timeout_ms = .*$", 'drain_timeout_ms = "soon"', good, flags=re.MULTILINE)
    if bad == good:
        raise RuntimeError(f"nothing to spoil in {file}")
    file.write_text(bad)
    try:
        _reload_is_refused(lab, 1)
        lab.begins()
        lab.stop(1)
        status = lab.serve(1).wait()
        if status != 2 or "drain_timeout_ms" not in lab.log_of(1):
            raise RuntimeError(f"a node with a bad configuration ended with {status}:\n{lab.log_of(1)[-2000:]}")
        yield
    finally:
        file.write_text(good)
    lab.serve(1)
    lab.ready(1)


def _reload_is_refused(lab, index):
    """A node that is told to read the bad file says so, and goes on as it was."""
    before = len(lab.log_of(index))
    lab.signal(index, signal.SIGHUP)
    lab.until(lambda: "drain_timeout_ms" in lab.log_of(index)[before:], "the reload is refused")
    if not lab.answers(index, "ready"):
        raise RuntimeError("a refused reload made the node unready")


@contextlib.contextmanager
def clock_jump(lab):
    offset = lab.cluster.folder / "faketime"
    offset.write_text("+0\n")
    library = next(Path("/").glob(FAKETIME[1:]), None)
    if library is None:
        raise RuntimeError(f"no {FAKETIME}: scripts/install.sh alerts installs it")
    lab.stop(0)
    # Only the wall clock jumps, as it does when somebody sets it.
    told = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}  # fmt: skip
    lab.serve(0, environment=told)
    lab.ready(0)
    # Until it has people again, and a rate over a minute is whole.
    time.sleep(60)
    lab.begins()
    offset.write_text(f"+{JUMP_S}\n")
    yield
    offset.write_text("+0\n")


@contextlib.contextmanager
def hot_room(lab):
    room = lab.room_on(0)
    lab.begins()
    with contextlib.closing(Writers(lab.cluster.url, room, lab.person, 12)):
        yield


# In the order in which they are injected: those whose alerts look back five
# minutes at the same things are far apart. Shards, nodes and servers take turns,
# so that none is started three times in 15 minutes.
FAULTS = [
    Fault(
        "primary-frozen", "SIGSTOP to all processes of shard b's primary", primary_frozen,
        ["NoPrimary", "EndpointDown"],
        [("Shards", "Reachable", {"endpoint": "b-1"}), ("Shards", "Primary", {"endpoint": "b-1"}),
         ("Shards", "Connections that failed to open", {"endpoint": "b-1"})],
    ),
    Fault(
        "disk-full", f"shard b's primary is filled to 90 % of its `disk_bytes` ({DISK_BYTES // 10**9} GB)", disk_full,
        ["DiskFilling", "DiskFull"],
        [("Shards", "Disk", {"endpoint": "b-1"}), ("Overview", "Disks and connections", {"endpoint": "b-1"})],
    ),
    Fault(
        "hot-room", "12 sessions submit to one room as fast as they are read", hot_room,
        ["SubmitP99High", "SubmitP99Critical"],
        [("Overview", "Submit to answer", {}), ("Node", "Submits in one transaction", {}),
         ("Overview", "Burn rate, short", {})],
    ),
    Fault(
        "node-killed", "SIGKILL to node-3", node_killed,
        ["NodeDown"],
        [("Node", "Up", {"node": "node-3"}), ("Overview", "Nodes up", {}),
         ("Rooms", "Nodes that may take people", {})],
    ),
    Fault(
        "bad-config", "a text where node-2 wants a number; it is restarted and ends with status 2", bad_configuration,
        ["NodeDown"],
        [("Node", "Up", {"node": "node-2"}), ("Overview", "Nodes up", {})],
    ),
    Fault(
        "clock-jump", f"node-1's clock is set {JUMP_S // 60} minutes ahead (libfaketime)", clock_jump,
        ["NodeClockWrong"],
        [("Node", "Clock, ahead of the databases'", {"node": "node-1"})],
    ),
    Fault(
        "slow-client-crowd", "40 sessions on node-2 take 40 kB/s of the 320 kB/s that are drawn in their room", slow_client_crowd,
        ["SessionsLagging"],
        [("Bus", "Slow clients", {"node": "node-2"}), ("Bus", "Waiting in outboxes", {"node": "node-2"}),
         ("Overview", "Sessions fed from the log", {"node": "node-2"})],
    ),
    Fault(
        "pool-exhausted",
        f"a job on shard b's primary locks a table for {LOCKED_S * 1000:.0f} ms, again and again; {READING} people read there",
        pool_exhausted,
        ["PoolExhausted"],
        [("Shards", "Pool use", {"endpoint": "b-1"}), ("Overview", "Fullest pools", {"endpoint": "b-1"}),
         ("Shards", "Waiting for and holding a connection, p99", {"shard": "b"})],
    ),
    Fault(
        "redis-killed", "SIGKILL to Redis", redis_killed,
        ["BusDown"],
        [("Bus", "Listening", {"node": "node-1"}), ("Bus", "COMMIT to outbox, p99 by node", {}),
         ("Bus", "Holes filled from the log", {})],
    ),
    Fault(
        "replica-paused", "`pg_wal_replay_pause()` on shard a's replica", replica_paused,
        ["ReplicationLagHigh", "ReplicationLagCritical"],
        [("Shards", "Replication lag", {"endpoint": "a-2"}), ("Shards", "Log not yet replayed", {"endpoint": "a-2"})],
    ),
]  # fmt: skip
