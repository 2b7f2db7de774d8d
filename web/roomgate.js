/**
 * roomgate.js: a client of the protocol `roomgate.v1` for any web page.
 * No dependencies, no build step.
 *
 *     import { Account, Client } from './roomgate.js';
 *
 *     const account = new Account({ storage: localStorage });
 *     await account.signIn('me@example.org', 'a password');
 *     const client = new Client({ account, storage: localStorage });
 *     const room = client.join({ slug: 'demo' });
 *     room.on('change', () => draw(room.shapes()));
 *     room.on('saved', ({ state }) => mark(state)); // 'saved' | 'saving' | 'unsaved'
 *     room.submit('shape.add', { shape: { id: newId(), type: 'rect', x: 0, y: 0, width: 9, height: 9 } });
 *     client.start();
 *
 * What it guarantees:
 * - A room's confirmed state is the fold of a contiguous prefix of the room's
 *   log. What the page sees is that state with its own unconfirmed operations
 *   on top. A hole or repeat in the log is counted in `room.errors`, never
 *   folded; both should stay 0.
 * - `saved` means acknowledged: the server committed every operation. An
 *   operation without an answer stays in the outbox (and in `storage`, so that
 *   a reload or a crash of the page loses nothing) and is submitted again under
 *   the same `op`, on whichever node, until it is acknowledged or refused.
 * - Operations on one shape are applied in the order they were made: a later
 *   one is sent only when the earlier one was answered.
 * - A lost connection is taken up again where it ended, with jittered back-off
 *   and the server's own hints; it gives up only when the protocol says that
 *   reconnecting is pointless (close codes 4100–4199).
 */

/** Silence after a ping that means the connection is dead. */
const PONG_TIMEOUT_MS = 10_000;
/** From opening a socket to `welcome`. */
const WELCOME_TIMEOUT_MS = 10_000;
/** Work unacknowledged for longer than this is called unsaved, not "saving". */
const SAVING_MS = 2_000;
/** Submits of one room that may wait for their answer at a time. */
const IN_FLIGHT = 32;
/** At most one signal of a room in this time; the last value wins. */
const SIGNAL_EVERY_MS = 50;
/** A connection that lived this long resets the back-off. */
const STABLE_MS = 5_000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MOST_MS = 8_000;
/** Refusals that mean "not now": the operation stays in the outbox. */
const TRANSIENT = new Set(['rate_limited', 'overloaded', 'unavailable', 'shard_unavailable', 'read_only',
  'not_joined', 'unauthenticated', 'token_expired', 'internal']);

// ---------------------------------------------------------------- ids, events

const BASE32 = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
let lastIdTime = 0;

/**
 * A ULID: 26 characters, unique, sorting in the order of creation on this page.
 * @returns {string}
 */
export function newId() {
  lastIdTime = Math.max(Date.now(), lastIdTime + 1);
  let id = '';
  for (let rest = lastIdTime, i = 0; i < 10; i++) {
    id = BASE32[rest % 32] + id;
    rest = Math.floor(rest / 32);
  }
  for (const byte of crypto.getRandomValues(new Uint8Array(16))) id += BASE32[byte % 32];
  return id;
}

/** `on(type, listener)` returns the function that takes the listener off. */
class Emitter {
  #listeners = new Map();

  on(type, listener) {
    const set = this.#listeners.get(type) ?? this.#listeners.set(type, new Set()).get(type);
    set.add(listener);
    return () => set.delete(listener);
  }

  /** @package */
  _emit(type, detail) {
    for (const listener of this.#listeners.get(type) ?? []) listener(detail);
  }
}

// ------------------------------------------------------------ folding the log

/**
 * RFC 7396: what `patch` makes of `target`. Neither is changed.
 */
export function mergePatch(target, patch) {
  if (!isObject(patch)) return patch;
  const merged = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else setOwn(merged, key, mergePatch(Object.hasOwn(merged, key) ? merged[key] : undefined, value));
  }
  return merged;
}

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

/** Assignment that also works for a key named `__proto__`. */
function setOwn(object, key, value) {
  Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
}

/**
 * Applies one event of the log to the shapes.
 * @param {Map<string, {version: number, shape: object|null}>} shapes `shape: null` is a tombstone
 * @param {object} event as the server sends it: `kind`, the kind's body, `version`
 */
export function applyEvent(shapes, event) {
  const id = shapeIdOf(event);
  const before = shapes.get(id);
  const version = event.version ?? (before?.version ?? 0) + 1;
  switch (event.kind) {
    case 'shape.add':
    case 'shape.put':
      shapes.set(id, { version, shape: event.shape });
      break;
    case 'shape.update':
      if (before?.shape) shapes.set(id, { version, shape: mergePatch(before.shape, event.patch) });
      break;
    case 'shape.delete':
      shapes.set(id, { version, shape: null });
      break;
    case 'room.clear':
      for (const [key, entry] of shapes) {
        if (entry.shape) shapes.set(key, { version: entry.version + 1, shape: null });
      }
      break;
    default: // 'message', or a kind that is younger than this page
  }
}

/** The shape that an event or a submit is about, if it is about one. */
export function shapeIdOf({ shape, shape_id: id }) {
  return shape?.id ?? id;
}

// -------------------------------------------------------------------- account

/** A refusal over HTTP, or `code: 'network'` when there was no answer. */
export class HttpError extends Error {
  constructor(status, code, message, retryAfterMs) {
    super(message || code);
    Object.assign(this, { status, code, retryAfterMs });
  }
}

/** How long an access token lasts, in ms, by its own two times; undefined if it has none. */
function lifetime(token) {
  try {
    const { iat, exp } = JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
    return exp > iat ? (exp - iat) * 1000 : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Who is signed in, over HTTP. The tokens are kept in `storage` and shared by
 * all pages of the origin. Emits `change`.
 */
export class Account extends Emitter {
  #storage;
  #fetch;
  #base;
  #refreshing = null;
  #memory = null;

  /**
   * @param {object} [options]
   * @param {Storage} [options.storage] keeps the session over reloads; without it, in memory only
   * @param {string} [options.base] origin of the gateway, default the page's own
   * @param {typeof fetch} [options.fetch]
   */
  constructor({ storage, base = '', fetch = globalThis.fetch.bind(globalThis) } = {}) {
    super();
    this.#storage = storage;
    this.#base = base;
    this.#fetch = fetch;
  }

  /** The user `{id, email, name, photo}`, or null when nobody is signed in. */
  get user() {
    return this.#load()?.user ?? null;
  }

  async signIn(email, password) {
    return this.#enter(await this.#call('POST', '/v1/signin', { email, password }));
  }

  async signUp(email, password, name) {
    return this.#enter(await this.#call('POST', '/v1/signup', { email, password, name }));
  }

  /** An account that nobody has to remember: a random address and password. */
  async guest(name) {
    const email = `guest-${newId().toLowerCase()}@guest.invalid`;
    return this.signUp(email, `${newId()}${newId()}`, name);
  }

  async signOut() {
    const session = this.#load();
    this.#save(null);
    if (!session) return;
    // The session is gone here in any case; the server's copy runs out by itself.
    await this.#call('POST', '/v1/signout', { refresh_token: session.refresh_token }, session.token).catch(() => {});
  }

  /** An access token good for a while; refreshed first if it is about to end. */
  async token() {
    const session = this.#load();
    if (!session) throw new HttpError(401, 'unauthenticated', 'Nobody is signed in.');
    // Since its receipt, because the clocks here and there differ. A clock that was set
    // back shows as a negative age.
    const age = Date.now() - session.received_at;
    const left = session.lifetime_ms - age;
    return age >= 0 && left > Math.min(30_000, session.lifetime_ms / 2) ? session.token : this.refresh();
  }

  /**
   * A new access token. Refresh tokens rotate, so pages of one origin take
   * turns, and use what another page has just got. A refused refresh token
   * signs out.
   */
  refresh() {
    this.#refreshing ??= this.#refreshInTurn().finally(() => { this.#refreshing = null; });
    return this.#refreshing;
  }

  #refreshInTurn() {
    const stale = this.#load()?.token;
    const turn = () => this.#refreshOnce(stale);
    return globalThis.navigator?.locks ? navigator.locks.request('roomgate.refresh', turn) : turn();
  }

  async #refreshOnce(stale) {
    const session = this.#load();
    if (!session) throw new HttpError(401, 'unauthenticated', 'Nobody is signed in.');
    if (session.token !== stale) return session.token;
    try {
      const fresh = await this.#call('POST', '/v1/token/refresh', { refresh_token: session.refresh_token });
      this.#enter({ ...session, ...fresh });
      return fresh.token;
    } catch (error) {
      const now = this.#load();
      if (now && now.token !== stale) return now.token;
      if (error.status === 401 || error.status === 403) this.#save(null);
      throw error;
    }
  }

  /**
   * An HTTP request as this user; a stale token is refreshed and the request
   * repeated once.
   * @returns {Promise<any>} the answer's JSON
   * @throws {HttpError}
   */
  async request(method, path, body, headers) {
    try {
      return await this.#call(method, path, body, await this.token(), headers);
    } catch (error) {
      if (error.status !== 401 || !this.user) throw error;
      return this.#call(method, path, body, await this.refresh(), headers);
    }
  }

  async #call(method, path, body, token, headers = {}) {
    const all = { ...headers };
    if (token) all.authorization = `Bearer ${token}`;
    if (body !== undefined) all['content-type'] = 'application/json';
    const text = body === undefined ? undefined : JSON.stringify(body);
    let response;
    let json = null;
    try {
      response = await this.#fetch(this.#base + path, { method, headers: all, body: text, cache: 'no-store' });
      const answer = await response.text();
      if (answer) json = JSON.parse(answer);
    } catch (error) {
      if (response && !response.ok) throw new HttpError(response.status, 'unavailable', `The server answered ${response.status}.`);
      throw new HttpError(0, 'network', `No answer from the server (${error.message}).`);
    }
    if (response.ok) return json;
    const retryAfter = Number(response.headers.get('retry-after'));
    throw new HttpError(response.status, json?.error?.code ?? 'unavailable',
      json?.error?.message ?? `The server answered ${response.status}.`, retryAfter > 0 ? retryAfter * 1000 : undefined);
  }

  #enter(session) {
    const received_at = Date.now();
    this.#save({ ...session, received_at, lifetime_ms: lifetime(session.token) ?? session.expires_at - received_at });
    return session.user;
  }

  #load() {
    if (!this.#storage) return this.#memory;
    try {
      return JSON.parse(this.#storage.getItem('roomgate.session')) ?? null;
    } catch {
      return this.#memory;
    }
  }

  #save(session) {
    this.#memory = session;
    try {
      if (session) this.#storage?.setItem('roomgate.session', JSON.stringify(session));
      else this.#storage?.removeItem('roomgate.session');
    } catch {
      this.#storage = undefined; // full or forbidden: this page goes on from memory
    }
    this._emit('change', session?.user ?? null);
  }
}

// --------------------------------------------------------------------- client

/**
 * One connection, kept up. Emits:
 * - `status` (`client.status`): `idle`, `connecting`, `open`, `waiting` (for the
 *   next attempt), `signin` (nobody is signed in any more) or `stopped` (the
 *   server said not to come back; `client.reason` says why)
 * - `latency` when a round trip was measured (`client.latencyMs`)
 * - `error` for what the server refused outside of a room
 */
export class Client extends Emitter {
  status = 'idle';
  /** Why the last connection ended: a close code's reason, or '' */
  reason = '';
  /** From `welcome`: `{session, node, user, name, heartbeat_ms, limits}` */
  welcome = null;
  latencyMs = null;
  /** Connections that reached `welcome` so far. */
  connections = 0;

  #options;
  #socket = null;
  #rooms = new Set();
  #byId = new Map();
  #outgoing = [];
  #failures = 0;
  #openedAt = 0;
  #heardAt = 0;
  #tickedAt = 0;
  #ping = null;
  #hintMs = null;
  #refreshedSinceWelcome = false;
  #timers = {};

  /**
   * @param {object} options
   * @param {{token(): Promise<string>, refresh(): Promise<string>}} options.account an {@link Account} or anything alike
   * @param {string} [options.url] default `/v1/ws` of the page's own origin
   * @param {Storage} [options.storage] keeps unacknowledged operations over a reload
   * @param {number} [options.pingMs] also measure the latency this often when quiet
   * @param {boolean} [options.hello] send the token in `hello` instead of the subprotocol
   * @param {typeof WebSocket} [options.WebSocket]
   * @param {() => number} [options.random]
   */
  constructor(options) {
    super();
    this.#options = { WebSocket: globalThis.WebSocket, random: Math.random, pingMs: Infinity, ...options };
    this.#options.url ??= `${location.origin.replace(/^http/, 'ws')}/v1/ws`;
  }

  /** Connects, and stays connected until `stop`. */
  start() {
    if (!['idle', 'signin', 'stopped'].includes(this.status)) return;
    this.#failures = 0;
    this.#connect();
  }

  /** Ends the connection. Unacknowledged operations stay in the outbox. */
  stop() {
    this.#drop();
    this.#setStatus('idle', '');
  }

  /** The network or the page came back: look at once instead of at the next timer. */
  nudge() {
    if (this.status === 'waiting') this.#connect();
    else if (this.status === 'open') this.#sendPing();
  }

  /**
   * Enters a room; the same room object stays valid over reconnects.
   * @param {{slug?: string, room?: number, password?: string, invite?: string}} ref
   * @returns {Room}
   */
  join(ref) {
    const room = new Room(this, ref, this.#options.storage);
    this.#rooms.add(room);
    if (this.status === 'open') room._join();
    return room;
  }

  /** @package */
  _leave(room) {
    this.#rooms.delete(room);
    this.#byId.delete(room.id);
  }

  /** @package */
  _named(room) {
    this.#byId.set(room.id, room);
  }

  /** @package Queues a message; all of one turn of the event loop share a frame. */
  _send(message) {
    if (this.status !== 'open') return;
    if (this.#outgoing.length === 0) queueMicrotask(() => this.#flush());
    this.#outgoing.push(message);
  }

  #flush() {
    const texts = this.#outgoing.splice(0).map((message) => JSON.stringify(message));
    if (this.#socket?.readyState !== 1) return;
    let frame = [];
    let size = 0;
    const send = () => this.#socket.send(frame.length === 1 ? frame[0] : `[${frame.join(',')}]`);
    for (const text of texts) {
      if (frame.length > 0 && (frame.length === 128 || size + text.length > 100_000)) {
        send();
        frame = [];
        size = 0;
      }
      frame.push(text);
      size += text.length;
    }
    if (frame.length > 0) send();
  }

  async #connect() {
    this.#drop();
    this.#setStatus('connecting', this.reason);
    const attempt = {};
    this.#timers.attempt = attempt;
    let token;
    try {
      token = await this.#options.account.token();
    } catch (error) {
      if (this.#timers.attempt === attempt) this.#unavailable(error);
      return;
    }
    if (this.#timers.attempt !== attempt) return; // stopped meanwhile
    const { WebSocket: Socket, url, hello } = this.#options;
    const socket = new Socket(url, hello ? ['roomgate.v1'] : ['roomgate.v1', `bearer.${token}`]);
    this.#socket = socket;
    socket.onopen = () => hello && socket.send(JSON.stringify({ type: 'hello', token, client: { name: 'roomgate.js', version: '1' } }));
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code }) => this.#lost(code);
    this.#timers.welcome = setTimeout(() => this.#lost(1006), WELCOME_TIMEOUT_MS);
  }

  #hear(text) {
    this.#heardAt = Date.now();
    const frame = JSON.parse(text);
    for (const message of Array.isArray(frame) ? frame : [frame]) this.#handle(message);
  }

  #handle(message) {
    switch (message.type) {
      case 'welcome': return this.#welcomed(message);
      case 'pong': return this.#ponged(message);
      case 'token_expiring': return void this.#refreshInPlace();
      case 'goodbye':
        this.#hintMs = message.reconnect_after_ms ?? 0;
        return undefined;
      case 'refreshed': return undefined;
      default: {
        const room = this.#byId.get(message.room) ?? [...this.#rooms].find((each) => each._asked(message.id));
        if (room) room._receive(message);
        else if (message.type === 'error') this._emit('error', message);
        return undefined;
      }
    }
  }

  #welcomed(message) {
    clearTimeout(this.#timers.welcome);
    this.welcome = message;
    this.connections += 1;
    this.#openedAt = this.#heardAt = this.#tickedAt = Date.now();
    this.#refreshedSinceWelcome = false;
    this.#hintMs = null;
    this.#setStatus('open', '');
    this.#timers.tick = setInterval(() => this.#tick(), 1_000);
    this.#sendPing();
    for (const room of this.#rooms) room._join();
  }

  /** Heartbeat: a browser can't see the server's own pings. */
  #tick() {
    const now = Date.now();
    const asleep = now - this.#tickedAt > 5_000;
    this.#tickedAt = now;
    if (asleep) this.#ping = null; // the page slept; what came meanwhile is still queued
    const quiet = now - this.#heardAt;
    if (this.#ping && this.#heardAt < this.#ping.at && now - this.#ping.at >= PONG_TIMEOUT_MS) this.#lost(4001);
    else if (asleep || quiet >= this.welcome.heartbeat_ms || now - (this.#ping?.at ?? 0) >= this.#options.pingMs) {
      if (!this.#ping || this.#heardAt >= this.#ping.at) this.#sendPing();
    }
    for (const room of this.#rooms) room._tick();
  }

  #sendPing() {
    this.#ping = { at: Date.now(), precise: performance.now() };
    this._send({ type: 'ping', t: this.#ping.at });
  }

  #ponged({ t }) {
    if (t !== this.#ping?.at) return;
    this.latencyMs = performance.now() - this.#ping.precise;
    this._emit('latency', this.latencyMs);
  }

  async #refreshInPlace() {
    try {
      this._send({ type: 'refresh', token: await this.#options.account.refresh() });
    } catch (error) {
      // The connection ends with 4101 in a minute, and that is handled there.
      this._emit('error', { code: error.code ?? 'token_expired', message: error.message });
    }
  }

  #lost(code) {
    const lived = this.status === 'open' ? Date.now() - this.#openedAt : -1;
    this.#drop();
    this.#failures = lived >= STABLE_MS ? 0 : this.#failures + 1;
    const reason = CLOSE_REASONS[code] ?? 'connection_lost';
    if (code === 4100 || code === 4101) return this.#renew(reason);
    if (code > 4101 && code < 4200) return this.#setStatus('stopped', reason);
    if (lived < 0 && code === 1006) return this.#recheck(reason);
    return this.#retry(reason);
  }

  /** The token was refused: try a new one, once. */
  #renew(reason) {
    if (this.#refreshedSinceWelcome) return this.#setStatus('signin', reason);
    this.#refreshedSinceWelcome = true;
    this.#setStatus('connecting', reason);
    const attempt = (this.#timers.attempt = {});
    return this.#options.account.refresh().then(
      () => this.#timers.attempt === attempt && this.#connect(),
      (error) => this.#timers.attempt === attempt && this.#unavailable(error),
    );
  }

  /** A refused handshake looks like a dead server to a page: ask over HTTP which it is. */
  #recheck(reason) {
    this.#retry(reason);
    this.#options.account.request?.('GET', '/v1/me').catch((error) => {
      if (error.status === 401 && ['waiting', 'connecting'].includes(this.status)) {
        this.#drop();
        this.#setStatus('signin', 'unauthenticated');
      }
    });
  }

  #unavailable(error) {
    if (error.status === 401 || error.status === 403) return this.#setStatus('signin', 'unauthenticated');
    this.#failures += 1;
    return this.#retry('connection_lost');
  }

  #retry(reason) {
    const most = Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(this.#failures, 10));
    const jitter = this.#options.random();
    const delay = this.#hintMs === null ? 20 + jitter * most : this.#hintMs * (1 + jitter / 10);
    this.#hintMs = null;
    this.#setStatus('waiting', reason);
    this.#timers.retry = setTimeout(() => this.#connect(), delay);
  }

  /** Forgets the socket at once: a frozen server would never finish a closing handshake. */
  #drop() {
    clearTimeout(this.#timers.retry);
    clearTimeout(this.#timers.welcome);
    clearInterval(this.#timers.tick);
    this.#timers = {};
    this.#ping = null;
    this.#outgoing = [];
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
    if (this.status === 'open') this.status = 'connecting';
    for (const room of this.#rooms) room._disconnected();
  }

  #setStatus(status, reason) {
    this.status = status;
    this.reason = reason;
    this._emit('status', status);
  }
}

const CLOSE_REASONS = {
  1001: 'going_away', 1011: 'internal', 1012: 'restart', 1013: 'overload', 4000: 'slow_consumer',
  4001: 'heartbeat_timeout', 4002: 'shard_unavailable', 4100: 'unauthenticated', 4101: 'token_expired',
  4102: 'kicked', 4103: 'rate_abuse', 4104: 'protocol_violation',
};

// ----------------------------------------------------------------------- room

/**
 * @typedef {{ok: true, op: string, epoch: number, seq: number, version?: number, duplicate?: boolean, cleared?: number}
 *   | {ok: false, op: string, code: string, message: string, current?: object}} Outcome
 */

/**
 * A room and this page's part in it. Made by `client.join`. Emits:
 * - `state` (`room.state`): `joining`, `live`, or `refused` (`room.refusal` has
 *   `code` and `message`, e.g. `password_required`: call `room.enter`)
 * - `change` when `shapes()` may read differently
 * - `event` for every event of the log, once it is folded
 * - `saved` with `{state, count}`
 * - `reject` with `{op, kind, body, code, message, current}`: undone here
 * - `presence`, `signal` `{session, user, data}`, `resync` `{reason}`
 */
export class Room extends Emitter {
  state = 'joining';
  refusal = null;
  id = null;
  slug = null;
  role = null;
  /** The position of the confirmed state. */
  position = { epoch: 0, seq: 0 };
  /** The confirmed state, tombstones included. @type {Map<string, {version: number, shape: object|null}>} */
  confirmed = new Map();
  /** Other sessions here: session → `{session, user, name, role}` */
  members = new Map();
  /** How many sessions are here, this one included. */
  count = 0;
  /** What the server must never do; a test looks at it. */
  errors = { gaps: 0, repeats: 0, misplaced: 0 };
  /** Milliseconds from the last submit's sending to its ack. */
  ackMs = null;

  #client;
  #ref;
  #outbox;
  #asked = null;
  /** 'asked' for the room, then 'pages', then 'live'. */
  #phase = 'asked';
  #loading = null;
  #timers = {};
  #signal = undefined;
  #signalledAt = 0;
  #savedShown = 'saved 0';
  #attempts = 0;

  /** @package */
  constructor(client, ref, storage) {
    super();
    this.#client = client;
    this.#ref = { ...ref };
    this.#outbox = new Outbox(storage);
  }

  /** The shapes as the page should show them; unsorted. @returns {object[]} */
  shapes() {
    const shown = [];
    const { overlay } = this.#outbox;
    for (const [id, entry] of this.confirmed) {
      const shape = overlay.has(id) ? overlay.get(id) : entry.shape;
      if (shape) shown.push(shape);
    }
    for (const [id, shape] of overlay) {
      if (shape && !this.confirmed.has(id)) shown.push(shape);
    }
    return shown;
  }

  /** One shape as `shapes()` has it. */
  shape(id) {
    return this.#outbox.lookup(this.confirmed, id) ?? undefined;
  }

  /** @returns {{state: 'saved'|'saving'|'unsaved', count: number}} `count` operations are not acknowledged */
  get saved() {
    const { count, oldestAt } = this.#outbox.unsaved();
    if (count === 0) return { state: 'saved', count };
    const late = this.state !== 'live' || Date.now() - oldestAt > SAVING_MS;
    return { state: late ? 'unsaved' : 'saving', count };
  }

  /**
   * Does something to the room, here at once, on the server as soon as possible.
   * @param {'shape.add'|'shape.update'|'shape.put'|'shape.delete'|'room.clear'|'message'} kind
   * @param {object} [body] by kind, e.g. `{shape}` or `{shape_id, patch}`
   * @returns {Promise<Outcome>} settled when the server has answered for good; never rejects
   */
  submit(kind, body = {}) {
    const settled = this.#outbox.add(kind, body, this.confirmed);
    this._emit('change');
    this.#pump();
    return settled;
  }

  /** Tells the others something fleeting (≤ 1 KiB of JSON); the last value wins. */
  signal(data) {
    this.#signal = data;
    if (this.#timers.signal) return;
    const wait = Math.max(0, this.#signalledAt + SIGNAL_EVERY_MS - Date.now());
    this.#timers.signal = setTimeout(() => this.#sendSignal(), wait);
  }

  /** Tries again to get in, with a password or invite. */
  enter(credentials = {}) {
    Object.assign(this.#ref, credentials);
    if (this.#client.status === 'open') this._join();
  }

  leave() {
    if (this.id) this.#client._send({ type: 'leave', room: this.id });
    this._disconnected();
    this.#client._leave(this);
  }

  // What follows is called by the client.

  /** @package */
  _asked(id) {
    return id !== undefined && id === this.#asked;
  }

  /** @package */
  _join() {
    clearTimeout(this.#timers.join);
    this.#asked = newId();
    this.#phase = 'asked';
    this.#loading = null;
    const { room, slug, password, invite } = this.#ref;
    const target = this.id || room ? { room: this.id ?? room } : { slug };
    const from = this.position.seq > 0 ? { from: this.position } : {};
    this.#client._send({ type: 'join', id: this.#asked, ...target, password, invite, ...from });
    this.#setState('joining');
  }

  /** @package */
  _disconnected() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
    this.#asked = null;
    this.#phase = 'asked';
    this.#outbox.disconnected();
    this.members.clear();
    if (this.state === 'live') this.#setState('joining');
    this._emit('presence');
    this.#showSaved();
  }

  /** @package */
  _tick() {
    this.#pump();
  }

  /** @package */
  _receive(message) {
    switch (message.type) {
      case 'joined': return this.#joined(message);
      case 'resync':
        if (this.#phase === 'asked') return undefined;
        this.#phase = 'pages';
        return this._emit('resync', message);
      case 'snapshot': return this.#snapshot(message);
      case 'events': return this.#page(message);
      case 'event': return this.#live(message);
      case 'ack': return this.#acked(message);
      case 'reject': return this.#rejected(message);
      case 'presence': return this.#presence(message);
      case 'signal': return this._emit('signal', message);
      case 'error': return this.#refused(message);
      default: return undefined; // younger than this page
    }
  }

  #joined(message) {
    if (message.id !== undefined && message.id !== this.#asked) return; // an earlier attempt's
    this.id = message.room;
    this.slug = message.slug;
    this.role = message.role;
    this.refusal = null;
    this.#attempts = 0;
    this.#phase = 'pages';
    delete this.#ref.password; // entering made us a member
    delete this.#ref.invite;
    this.#client._named(this);
    const me = this.#client.welcome;
    this.members = new Map((message.members ?? []).filter((m) => m.session !== me.session).map((m) => [m.session, m]));
    this.count = message.count ?? this.members.size + 1;
    this.#outbox.open(me.user, this.id, this.confirmed);
    this._emit('presence');
    this.#showSaved();
  }

  #snapshot({ epoch, seq, shapes, page, last }) {
    if (this.#phase === 'asked') return; // of the feed before
    if (page === 1 || !this.#loading) this.#loading = new Map();
    for (const { version, shape } of shapes) this.#loading.set(shape.id, { version, shape });
    if (!last) return;
    this.confirmed = this.#loading;
    this.#loading = null;
    this.position = { epoch, seq };
    this.#outbox.restarted(this.confirmed);
    this.#becomeLive();
  }

  #page({ events, last }) {
    if (this.#phase === 'asked') return;
    for (const event of events) if (!this.#fold(event)) return;
    if (last) this.#becomeLive();
    else this._emit('change');
  }

  #live(event) {
    if (this.#phase === 'asked') return;
    if (this.#phase === 'pages') this.errors.misplaced += 1;
    else if (this.#fold(event)) this._emit('change');
  }

  /** Takes the next event of the log, and only the next. */
  #fold(event) {
    if (event.seq <= this.position.seq) {
      this.errors.repeats += 1;
      return true;
    }
    if (event.seq !== this.position.seq + 1) {
      this.errors.gaps += 1;
      this._join();
      return false;
    }
    applyEvent(this.confirmed, event);
    this.position = { epoch: event.epoch, seq: event.seq };
    this.#outbox.folded(event, this.confirmed);
    this._emit('event', event);
    return true;
  }

  #becomeLive() {
    this.#phase = 'live';
    this.#setState('live');
    this._emit('change');
    this.#pump();
    if (this.#signal !== undefined) this.signal(this.#signal);
  }

  #acked(message) {
    const entry = this.#outbox.acked(message, this.position.seq, this.confirmed);
    if (entry?.sentAt) this.ackMs = performance.now() - entry.sentAt;
    this._emit('change');
    this.#pump();
  }

  #rejected(message) {
    const entry = this.#outbox.rejected(message, this.confirmed);
    if (entry) this._emit('reject', { ...message, kind: entry.kind, body: entry.body });
    if (message.code === 'not_joined' && this.state === 'live') this._join();
    this._emit('change');
    this.#pump();
  }

  #presence({ joined = [], left = [], members, count }) {
    if (members) this.members = new Map(members.map((member) => [member.session, member]));
    for (const member of joined) this.members.set(member.session, member);
    for (const session of left) this.members.delete(session);
    this.members.delete(this.#client.welcome.session);
    if (count !== undefined) this.count = count;
    this._emit('presence');
  }

  /** An `error` that is about this room: the join's, or one without an `of`. */
  #refused(message) {
    if (message.id === undefined || message.id !== this.#asked) return this.#client._emit('error', message);
    this.refusal = { code: message.code, message: message.message };
    if (TRANSIENT.has(message.code)) {
      const most = Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** this.#attempts++);
      this.#timers.join = setTimeout(() => this._join(), message.retry_after_ms ?? most * (0.5 + Math.random() / 2));
      return this.#showSaved();
    }
    return this.#setState('refused');
  }

  #sendSignal() {
    this.#timers.signal = null;
    if (this.state !== 'live' || this.#signal === undefined) return;
    this.#signalledAt = Date.now();
    this.#client._send({ type: 'signal', room: this.id, data: this.#signal });
    this.#signal = undefined;
  }

  #pump() {
    if (this.state === 'live') {
      clearTimeout(this.#timers.pump);
      const { submits, againMs } = this.#outbox.take(this.#client.welcome.limits);
      for (const { op, kind, body } of submits) this.#client._send({ type: 'submit', room: this.id, op, kind, ...body });
      if (againMs !== null) this.#timers.pump = setTimeout(() => this.#pump(), againMs);
    }
    this.#showSaved();
  }

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this._emit('state', state);
    this.#showSaved();
  }

  #showSaved() {
    const { state, count } = this.saved;
    const shown = `${state} ${count} ${this.state}`;
    if (shown === this.#savedShown) return;
    this.#savedShown = shown;
    this._emit('saved', { state, count });
  }
}

// --------------------------------------------------------------------- outbox

/**
 * A room's operations that the log doesn't confirm yet, oldest first, and what
 * they make of the shapes. Knows no sockets.
 *
 * An entry leaves when it is refused, or when it is both acknowledged (saved)
 * and folded from the log (shown without our help). Only acknowledged ones are
 * taken out of the storage.
 */
class Outbox {
  /** What the entries make of the shapes they touch: id → shape, or null if deleted. */
  overlay = new Map();

  #entries = [];
  #storage;
  #prefix = null;
  #pausedUntil = 0;
  #allowance = { tokens: 0, at: 0 };

  constructor(storage) {
    this.#storage = storage;
  }

  /** The room is known: takes up what an earlier page left. */
  open(user, room, confirmed) {
    const prefix = `roomgate.outbox/${user}/${room}/`;
    if (this.#prefix === prefix) return;
    this.#prefix = prefix;
    const have = new Set(this.#entries.map(({ op }) => op));
    const left = this.#stored().filter(({ op }) => !have.has(op));
    for (const entry of this.#entries) this.#store(entry);
    this.#entries.unshift(...left);
    this.#rebuild(confirmed);
  }

  unsaved() {
    const waiting = this.#entries.filter((entry) => !entry.acked);
    return { count: waiting.length, oldestAt: waiting[0]?.madeAt };
  }

  lookup(confirmed, id) {
    return this.overlay.has(id) ? this.overlay.get(id) : confirmed.get(id)?.shape ?? null;
  }

  add(kind, body, confirmed) {
    const entry = { op: newId(), kind, body, madeAt: Date.now(), retryAt: 0, failures: 0, settle: [] };
    const settled = new Promise((resolve) => entry.settle.push(resolve));
    this.#absorb(entry);
    this.#entries.push(entry);
    this.#store(entry);
    this.#apply(entry, confirmed);
    return settled;
  }

  /**
   * A second change of a shape that is still waiting to be sent swallows the
   * first (a drag makes many). It gets an `op` of its own, since another page
   * may have taken up the first one from the storage.
   */
  #absorb(entry) {
    if (!isPlainPatch(entry)) return;
    const at = this.#entries.findLastIndex((earlier) => touches(earlier, entry));
    const earlier = this.#entries[at];
    if (!earlier || earlier.sent || earlier.acked || !isPlainPatch(earlier)) return;
    entry.body = { shape_id: entry.body.shape_id, patch: { ...earlier.body.patch, ...entry.body.patch } };
    entry.madeAt = earlier.madeAt;
    entry.settle.push(...earlier.settle);
    this.#entries.splice(at, 1);
    this.#unstore(earlier);
  }

  /**
   * What may be sent now: in order, one at a time for each shape, at most
   * IN_FLIGHT, within the announced rate.
   */
  take({ submits_per_second: rate = 0, submit_burst: burst = 0 } = {}) {
    const now = Date.now();
    this.#refill(now, rate, burst);
    const submits = [];
    let againMs = now < this.#pausedUntil ? this.#pausedUntil - now : null;
    const ahead = [];
    let inFlight = 0;
    for (const entry of againMs === null ? this.#entries : []) {
      if (entry.acked) continue;
      const blocked = ahead.some((earlier) => touches(earlier, entry));
      ahead.push(entry);
      if (entry.inFlight) inFlight += 1;
      if (entry.inFlight || blocked) continue;
      if (inFlight >= IN_FLIGHT || ahead.length > 4 * IN_FLIGHT) break;
      if (entry.retryAt > now) {
        againMs = Math.min(againMs ?? Infinity, entry.retryAt - now);
      } else if (rate > 0 && this.#allowance.tokens < 1) {
        againMs = Math.min(againMs ?? Infinity, Math.ceil(1000 / rate));
        break;
      } else {
        this.#allowance.tokens -= 1;
        Object.assign(entry, { inFlight: true, sent: true, sentAt: performance.now() });
        inFlight += 1;
        submits.push(entry);
      }
    }
    return { submits, againMs };
  }

  /** A little below what the server allows, so that we are never the ones refused. */
  #refill(now, rate, burst) {
    const { tokens, at } = this.#allowance;
    const most = Math.max(1, burst * 0.8);
    this.#allowance = { tokens: Math.min(most, at === 0 ? most : tokens + ((now - at) / 1000) * rate * 0.9), at: now };
  }

  acked(message, seq, confirmed) {
    const entry = this.#find(message.op);
    if (!entry) return undefined;
    Object.assign(entry, { acked: true, inFlight: false, seq: message.seq });
    this.#unstore(entry);
    if (entry.folded || message.seq <= seq) this.#remove(entry, confirmed);
    const { op, epoch, version, duplicate, cleared } = message;
    settle(entry, { ok: true, op, epoch, seq: message.seq, version, duplicate, cleared });
    return entry;
  }

  /** @returns the entry if it was refused for good */
  rejected(message, confirmed) {
    const entry = this.#find(message.op);
    if (!entry || entry.acked) return undefined;
    entry.inFlight = false;
    entry.failures += 1;
    const hopeless = message.code === 'internal' && entry.failures > 5;
    if (TRANSIENT.has(message.code) && !hopeless) {
      const wait = message.retry_after_ms ?? Math.min(5_000, 200 * 2 ** entry.failures);
      entry.retryAt = Date.now() + wait;
      if (message.code === 'rate_limited') this.#pausedUntil = entry.retryAt;
      return undefined;
    }
    this.#unstore(entry);
    this.#remove(entry, confirmed);
    settle(entry, { ok: false, op: message.op, code: message.code, message: message.message, current: message.current });
    return entry;
  }

  /** An event was folded: ours needs no overlay any more, and others' may lie below ours. */
  folded(event, confirmed) {
    const size = this.#entries.length;
    const own = this.#find(event.op);
    if (own && this.#prefix?.startsWith(`roomgate.outbox/${event.user}/`)) own.folded = true;
    this.#entries = this.#entries.filter((entry) => !(entry.acked && (entry.folded || entry.seq <= event.seq)));
    if (size > 0) this.#rebuild(confirmed);
  }

  /** A snapshot replaced the state: what was acknowledged is in it, or was declared lost. */
  restarted(confirmed) {
    this.#entries = this.#entries.filter((entry) => !entry.acked);
    this.#rebuild(confirmed);
  }

  disconnected() {
    this.#pausedUntil = 0;
    for (const entry of this.#entries) Object.assign(entry, { inFlight: false, retryAt: 0 });
  }

  #find(op) {
    return this.#entries.find((entry) => entry.op === op);
  }

  #remove(entry, confirmed) {
    this.#entries.splice(this.#entries.indexOf(entry), 1);
    this.#rebuild(confirmed);
  }

  #rebuild(confirmed) {
    this.overlay = new Map();
    for (const entry of this.#entries) if (!entry.folded) this.#apply(entry, confirmed);
  }

  /** Does to the overlay what the server will do to the room, if it accepts. */
  #apply({ kind, body }, confirmed) {
    const id = shapeIdOf(body);
    const before = this.lookup(confirmed, id);
    if (kind === 'shape.put' || (kind === 'shape.add' && !before && !confirmed.has(id))) this.overlay.set(id, body.shape);
    else if (kind === 'shape.update' && before) this.overlay.set(id, mergePatch(before, body.patch));
    else if (kind === 'shape.delete' && before) this.overlay.set(id, null);
    else if (kind === 'room.clear') {
      for (const key of [...confirmed.keys(), ...this.overlay.keys()]) this.overlay.set(key, null);
    }
  }

  #store({ op, kind, body }) {
    if (!this.#prefix) return; // before the first join: `open` does it
    try {
      this.#storage?.setItem(this.#prefix + op, JSON.stringify({ kind, body }));
    } catch {
      // Full or forbidden: the operation is in memory, and the page says "not saved" until it is acknowledged.
    }
  }

  #unstore({ op }) {
    try {
      if (this.#prefix) this.#storage?.removeItem(this.#prefix + op);
    } catch {
      // Forbidden storage holds nothing to take out.
    }
  }

  #stored() {
    const found = [];
    try {
      for (let i = 0; i < (this.#storage?.length ?? 0); i++) {
        const key = this.#storage.key(i);
        if (!key.startsWith(this.#prefix)) continue;
        const { kind, body } = JSON.parse(this.#storage.getItem(key));
        const op = key.slice(this.#prefix.length);
        found.push({ op, kind, body, madeAt: Date.now(), retryAt: 0, failures: 0, sent: true, settle: [] });
      }
    } catch {
      return found; // unreadable storage: what could be read
    }
    return found.sort((a, b) => (a.op < b.op ? -1 : 1));
  }
}

function settle(entry, outcome) {
  for (const resolve of entry.settle) resolve(outcome);
}

function touches(a, b) {
  return a.kind === 'room.clear' || b.kind === 'room.clear'
    || (shapeIdOf(a.body) !== undefined && shapeIdOf(a.body) === shapeIdOf(b.body));
}

/** A patch that composes with another by overwriting keys. */
function isPlainPatch({ kind, body }) {
  return kind === 'shape.update' && body.base === undefined && !Object.values(body.patch).some(isObject);
}
