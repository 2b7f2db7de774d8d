/**
 * What a run may be told by environment variables. A script names its own
 * defaults; README.md lists all of them.
 */

/**
 * @param {object} defaults of a script, e.g. `{people: 10, sessions: 5, rooms: 25, duration: '60s'}`
 * @returns the settings of this run; times in ms
 */
export function settings(defaults) {
  return {
    url: (__ENV.URL ?? 'http://127.0.0.1:8080').replace(/\/$/, ''),
    /** Accounts, each a VU with an event loop of its own. */
    people: number('VUS', defaults.people),
    /** Connections of each. */
    sessions: number('SESSIONS', defaults.sessions),
    rooms: number('ROOMS', defaults.rooms),
    durationMs: milliseconds(__ENV.DURATION ?? defaults.duration),
    /** Between two strokes of one person in one room, on average. */
    thinkMs: number('THINK_MS', defaults.thinkMs ?? 1500),
    /** Events in a room before anybody comes. */
    events: number('EVENTS', defaults.events ?? 0),
    /** In `crowd`: who draws while the others watch. */
    writers: number('WRITERS', defaults.writers ?? 0),
    /** In `storm`: how often all leave and come back. */
    rounds: number('ROUNDS', defaults.rounds ?? 0),
    /** In `soak`: how long a watcher stays, on average. */
    stayMs: number('STAY_MS', defaults.stayMs ?? 0),
    /** How long all may take at the end to have their answers and see everything. */
    settleMs: number('SETTLE_MS', 20_000),
    /** Names of nodes that must have served somebody; figures of each are shown. */
    nodes: (__ENV.NODES ?? '').split(',').filter(Boolean),
    /** An async failover may lose what was acked. */
    lossy: __ENV.LOSSY === '1',
    /** Rooms and accounts are left there. */
    keep: __ENV.KEEP === '1',
  };
}

function number(name, fallback) {
  const value = Number(__ENV[name] ?? fallback);
  if (!(value >= 0)) throw new Error(`${name} is not a number: ${__ENV[name]}`);
  return value;
}

/** `1500ms`, `30s`, `10m`, `2h`; a bare number is seconds. */
function milliseconds(text) {
  const [, value, unit] = /^([\d.]+)(ms|s|m|h)?$/.exec(text) ?? [];
  if (value === undefined) throw new Error(`DURATION is not a time: ${text}`);
  return Number(value) * { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }[unit ?? 's'];
}
