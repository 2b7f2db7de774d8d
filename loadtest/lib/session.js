/**
 * One connection to one room that speaks `roomgate.v1`, comes back by itself,
 * and believes nothing: every message is checked against the promise, and
 * counted where it breaks it (`measured.js`, correctness).
 *
 *     const session = new Session(run, account, { room, folds: true });
 *     await session.live();
 *     session.submit('shape.put', { shape });      // kept until it is answered
 *     session.cut();                               // as a lost network does
 *     await session.settled(head);
 *     session.stop();
 *
 * A latency counts from the moment somebody drew, also while the connection was
 * away: who waits for a slow gateway waits in these figures too.
 */
import { WebSocket } from 'k6/experimental/websockets';
import { applyEvent } from '../../web/roomgate.js';
import * as measured from './measured.js';
import { sleep } from './sleep.js';

const WELCOME_TIMEOUT_MS = 10_000;
const PONG_TIMEOUT_MS = 10_000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MOST_MS = 8_000;
/** A connection that lived this long resets the back-off. */
const STABLE_MS = 5_000;
/** Submits that may wait for their answer at a time. */
const IN_FLIGHT = 32;
/** Refusals that mean "not now". */
const PASSING = new Set(['rate_limited', 'overloaded', 'unavailable', 'shard_unavailable', 'read_only',
  'not_joined', 'unauthenticated', 'token_expired', 'internal']);

let sessionsMade = 0;

export class Session {
  /** Where this session is in the room's log. */
  position = { epoch: 0, seq: 0 };
  /** The fold of what was delivered, if it `folds`: id → `{version, shape}`. @type {Map} */
  shapes = new Map();
  state = 'idle';

  #run;
  #account;
  #room;
  #folds;
  #tags = { node: 'none' };
  #name = `${__VU}_${(sessionsMade += 1)}`;
  #socket = null;
  #timers = {};
  #heartbeatMs = 25_000;
  #heardAt = 0;
  #openedAt = 0;
  #joinedAt = 0;
  #liveAt = 0;
  #lostAt = null;
  #failures = 0;
  #hintMs = null;
  #told = {};
  #loading = null;
  #ops = 0;
  /** op → what is not answered yet, in the order it was drawn. */
  #waiting = new Map();
  /** op → `{acked, seen}`: seqs of own operations of which one is missing. */
  #own = new Map();
  /** The seq of the last snapshot: what is up to there was not delivered as events. */
  #base = 0;
  #pausedUntil = 0;
  #wakers = [];

  /**
   * @param {object} run the settings
   * @param {import('./api.js').Account} account
   * @param {object} options
   * @param {number} options.room
   * @param {{epoch: number, seq: number}} [options.from] what it pretends to have already
   * @param {boolean} [options.folds] keeps the room's shapes, to compare them in the end
   */
  constructor(run, account, { room, from, folds = false }) {
    this.#run = run;
    this.#account = account;
    this.#room = room;
    this.#folds = folds;
    if (from) this.position = from;
  }

  get room() {
    return this.#room;
  }

  get folds() {
    return this.#folds;
  }

  /** Operations without an answer. */
  get open() {
    return this.#waiting.size;
  }

  /** Connects if it isn't, and waits until it has all that the log has. */
  async live() {
    if (this.state === 'idle') this.#connect();
    await this.#until(() => this.state === 'live' || this.state === 'stopped');
    if (this.state === 'stopped') throw new Error('the gateway said not to come back');
  }

  /** Submits when it can, and again until it is answered. */
  submit(kind, body) {
    // With the time in it, so that whoever sees it knows how long it took.
    const op = `${Date.now().toString(36)}-${this.#name}-${(this.#ops += 1)}`;
    this.#waiting.set(op, { message: { type: 'submit', room: this.#room, op, kind, ...body }, madeAt: Date.now(), sent: false });
    measured.submits.add(1, this.#tags);
    this.#pump();
  }

  /** Tells the others something fleeting. */
  signal(data) {
    if (this.state === 'live') this.#send({ type: 'signal', room: this.#room, data });
  }

  /**
   * Loses the connection, and comes back after `pauseMs` (default: the usual
   * back-off) where it was, or where it was at an earlier `position`.
   */
  cut(pauseMs, position = this.position) {
    if (!this.#socket) return;
    this.#lost('cut', pauseMs);
    this.position = position;
  }

  /**
   * Waits until every operation is answered and everything up to `head` was
   * delivered; counts what is missing after `settleMs`.
   */
  async settled(head) {
    await this.#until(() => this.#waiting.size === 0 && this.position.seq >= head, this.#run.settleMs);
    measured.unanswered.add(this.#waiting.size, this.#tags);
    if (this.position.seq < head) measured.behind.add(1, this.#tags);
    for (const { acked, seen } of this.#own.values()) {
      if (acked && !seen) measured.ackedUnseen.add(1, this.#tags);
    }
  }

  stop() {
    this.#drop();
    this.state = 'stopped';
  }

  // -------------------------------------------------------------- connection

  async #connect() {
    this.#drop();
    this.state = 'connecting';
    const attempt = (this.#timers.attempt = {});
    const startedAt = Date.now();
    let token;
    try {
      token = await this.#account.token();
    } catch {
      if (this.#timers.attempt === attempt) this.#lost('no_token');
      return;
    }
    if (this.#timers.attempt !== attempt) return; // stopped meanwhile
    const url = `${this.#run.url.replace(/^http/, 'ws')}/v1/ws`;
    const socket = new WebSocket(url, ['roomgate.v1', `bearer.${token}`], { tags: { name: '/v1/ws' } });
    this.#socket = socket;
    this.#openedAt = startedAt;
    socket.onmessage = ({ data, timestamp }) => this.#socket === socket && this.#hear(data, timestamp);
    socket.onerror = ({ error }) => this.#socket === socket && this.#lost(reasonOf(error));
    socket.onclose = () => this.#socket === socket && this.#lost('closed');
    this.#timers.welcome = setTimeout(() => this.#lost('no_welcome'), WELCOME_TIMEOUT_MS);
  }

  #hear(text, arrivedAt) {
    this.#heardAt = Date.now();
    measured.handledLate.add(Math.max(0, this.#heardAt - arrivedAt));
    const frame = JSON.parse(text);
    if (!Array.isArray(frame)) return this.#handle(frame, arrivedAt);
    for (const message of frame) this.#handle(message, arrivedAt);
    return undefined;
  }

  #handle(message, at) {
    switch (message.type) {
      case 'event': return this.#event(message, at);
      case 'ack': return this.#acked(message, at);
      case 'reject': return this.#rejected(message);
      case 'welcome': return this.#welcomed(message, at);
      case 'joined': return this.#joined(message);
      case 'resync': return this.#resynced(message);
      case 'snapshot': return this.#snapshot(message, at);
      case 'events': return this.#page(message, at);
      case 'signal': return measured.signals.add(1, this.#tags);
      case 'pong': return this.#ponged(message, at);
      case 'goodbye': return this.#goodbye(message);
      case 'token_expiring': return this.#refresh();
      case 'error': return this.#refused(message);
      default: return undefined; // presence, refreshed, and what is younger than this file
    }
  }

  #welcomed({ node, heartbeat_ms: heartbeatMs }, at) {
    clearTimeout(this.#timers.welcome);
    this.#tags = { node };
    this.#heartbeatMs = heartbeatMs;
    measured.welcome.add(at - this.#openedAt, this.#tags);
    measured.sessions.add(1, this.#tags);
    this.#timers.tick = setInterval(() => this.#tick(), 1_000);
    this.#send({ type: 'ping', t: Date.now() });
    this.#join();
  }

  /** Who has heard nothing for a heartbeat asks, and leaves when that isn't answered either. */
  #tick() {
    const quietMs = Date.now() - this.#heardAt;
    if (quietMs >= this.#heartbeatMs + PONG_TIMEOUT_MS) this.#lost('silence');
    else if (quietMs >= this.#heartbeatMs) this.#send({ type: 'ping' });
  }

  /** How far the node's clock is from this one, taking the way there and back as equally long. */
  #ponged({ t, server_time: serverTime }, at) {
    if (t !== undefined) measured.skew.add(serverTime - (t + at) / 2, this.#tags);
  }

  #goodbye({ reason, reconnect_after_ms: afterMs }) {
    measured.goodbyes.add(1, { ...this.#tags, reason });
    this.#hintMs = afterMs ?? 0;
  }

  async #refresh() {
    const socket = this.#socket;
    const token = await this.#account.token().catch(() => null);
    if (token && this.#socket === socket) this.#send({ type: 'refresh', token });
  }

  #lost(reason, pauseMs) {
    const welcomed = this.#timers.tick !== undefined;
    if (welcomed) {
      measured.disconnects.add(1, { ...this.#tags, reason });
      this.#lostAt ??= Date.now();
    }
    this.#failures = welcomed && Date.now() - this.#openedAt >= STABLE_MS ? 0 : this.#failures + 1;
    this.#drop();
    // 4100 and 4101 may come back with a new token, which `connect` gets.
    if (/ 41(0[2-9]|[1-9]\d)/.test(reason)) {
      this.state = 'stopped';
      return this.#wake();
    }
    const most = Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(this.#failures, 10));
    const usual = this.#hintMs === null ? 20 + Math.random() * most : this.#hintMs * (1 + Math.random() / 10);
    this.#hintMs = null;
    this.state = 'away';
    this.#timers.retry = setTimeout(() => this.#connect(), pauseMs ?? usual);
    return undefined;
  }

  /** Forgets the socket at once: a frozen node would never finish a closing handshake. */
  #drop() {
    const { welcome, tick, retry, pump, join } = this.#timers;
    for (const timer of [welcome, retry, pump, join]) clearTimeout(timer);
    clearInterval(tick);
    this.#timers = {};
    const socket = this.#socket;
    this.#socket = null;
    for (const entry of this.#waiting.values()) entry.sent = false;
    if (socket && socket.readyState <= 1) socket.close();
  }

  #send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  // -------------------------------------------------------------------- room

  #join() {
    this.state = 'joining';
    this.#joinedAt = Date.now();
    this.#loading = null;
    const from = this.position.seq > 0 ? { from: this.position } : {};
    this.#told = { from: this.position.seq > 0, mode: null, resync: false };
    this.#send({ type: 'join', id: String(this.#joinedAt), room: this.#room, ...from });
  }

  #joined({ mode }) {
    this.#told.mode = mode;
  }

  #resynced({ reason }) {
    measured.resyncs.add(1, { ...this.#tags, reason });
    this.#told.resync = true;
    // It may also come to a session that was live.
    if (this.state === 'live') this.#joinedAt = Date.now();
    this.state = 'joining';
    // What was seen or acked may be among what is declared lost.
    this.#own.clear();
  }

  #snapshot({ epoch, seq, shapes, page, last }, at) {
    if (this.state === 'live') return measured.misplaced.add(1, this.#tags);
    // Who said what it has and gets another state unasked has a silent gap.
    if (this.#told.from && !this.#told.resync) measured.gaps.add(1, this.#tags);
    if (page === 1) this.#loading = new Map();
    if (this.#folds) for (const { version, shape } of shapes) this.#loading.set(shape.id, { version, shape });
    if (!last) return undefined;
    this.shapes = this.#loading;
    this.#loading = null;
    this.position = { epoch, seq };
    this.#base = seq;
    for (const [op, { acked }] of this.#own) if (acked <= seq) this.#own.delete(op);
    return this.#isLive(at);
  }

  #page({ events, last }, at) {
    if (this.state === 'live') return measured.misplaced.add(1, this.#tags);
    measured.caughtUp.add(events.length, this.#tags);
    for (const event of events) if (!this.#follows(event)) return undefined;
    return last ? this.#isLive(at) : undefined;
  }

  #isLive(at) {
    this.state = 'live';
    this.#liveAt = at;
    measured.join.add(at - this.#joinedAt, { ...this.#tags, mode: this.#told.mode });
    if (this.#told.from && !this.#told.resync) measured.resumes.add(1, this.#tags);
    if (this.#lostAt !== null) measured.resume.add(at - this.#lostAt, this.#tags);
    this.#lostAt = null;
    this.#pump();
    this.#wake();
  }

  #event(event, at) {
    if (this.state !== 'live') return measured.misplaced.add(1, this.#tags);
    if (!this.#follows(event)) return undefined;
    measured.delivered.add(1, this.#tags);
    // What was missed may come as `event` too, right after the last page.
    if (event.at < this.#liveAt) return this.#wake();
    const tookMs = at - event.at;
    measured.commitDelivery.add(tookMs, this.#tags);
    measured.deliveryInTime.add(tookMs < measured.SLO_MS, this.#tags);
    const madeAt = parseInt(event.op, 36);
    if (madeAt > 1e12) measured.submitDelivery.add(at - madeAt, this.#tags);
    return this.#wake();
  }

  /** Takes the next event of the log, and only the next. */
  #follows(event) {
    const { seq, epoch, op } = event;
    if (seq <= this.position.seq) {
      measured.duplicates.add(1, this.#tags);
      return true;
    }
    if (seq !== this.position.seq + 1) {
      measured.gaps.add(1, this.#tags);
      this.#join();
      return false;
    }
    this.position = { epoch, seq };
    if (this.#folds) applyEvent(this.shapes, event);
    if (op.includes(`-${this.#name}-`)) this.#pair(op, 'seen', seq);
    return true;
  }

  // ----------------------------------------------------------------- submits

  #pump() {
    if (this.state !== 'live' || this.#timers.pump) return;
    const pauseMs = this.#pausedUntil - Date.now();
    if (pauseMs > 0) {
      this.#timers.pump = setTimeout(() => { this.#timers.pump = undefined; this.#pump(); }, pauseMs);
      return;
    }
    let room = IN_FLIGHT;
    for (const entry of this.#waiting.values()) {
      if (room-- === 0) return;
      if (!entry.sent) this.#send(entry.message);
      entry.sent = true;
    }
  }

  #acked({ op, seq }, at) {
    const entry = this.#waiting.get(op);
    if (!entry) return measured.wrongAcks.add(1, this.#tags);
    this.#waiting.delete(op);
    const tookMs = at - entry.madeAt;
    measured.acks.add(1, this.#tags);
    measured.submitAck.add(tookMs, this.#tags);
    measured.submitInTime.add(tookMs < measured.SLO_MS, this.#tags);
    if (seq > this.#base) this.#pair(op, 'acked', seq);
    this.#pump();
    return this.#wake();
  }

  /** An operation's ack and its event name the same seq. */
  #pair(op, what, seq) {
    const known = this.#own.get(op) ?? {};
    known[what] = seq;
    if (!known.acked || !known.seen) return this.#own.set(op, known);
    if (known.acked !== known.seen) measured.wrongAcks.add(1, this.#tags);
    return this.#own.delete(op);
  }

  #rejected({ op, code, retry_after_ms: afterMs }) {
    const entry = this.#waiting.get(op);
    if (!entry) return measured.wrongAcks.add(1, this.#tags);
    if (!PASSING.has(code)) {
      measured.rejects.add(1, { ...this.#tags, code });
      this.#waiting.delete(op);
      return this.#wake();
    }
    measured.putOff.add(1, { ...this.#tags, code });
    entry.sent = false;
    this.#pausedUntil = Date.now() + (afterMs ?? 250);
    return this.#pump();
  }

  #refused({ of, code, retry_after_ms: afterMs }) {
    measured.refusals.add(1, { ...this.#tags, code, of: of ?? 'none' });
    if (this.state !== 'joining') return;
    if (PASSING.has(code)) this.#timers.join = setTimeout(() => this.#join(), afterMs ?? 500 + Math.random() * 500);
    else this.#lost(`refused 4199 ${code}`);
  }

  // ----------------------------------------------------------------- waiting

  #wake() {
    for (const wake of this.#wakers.splice(0)) wake();
  }

  /** Waits for a condition that messages change; false if it doesn't come true in time. */
  async #until(isTrue, timeoutMs = Infinity) {
    const until = Date.now() + timeoutMs;
    while (!isTrue()) {
      const leftMs = until - Date.now();
      if (leftMs <= 0) return false;
      const woken = new Promise((resolve) => this.#wakers.push(resolve));
      await (Number.isFinite(leftMs) ? Promise.race([woken, sleep(leftMs)]) : woken);
    }
    return true;
  }
}

/** `websocket: close 1012 (service restart)` → `closed 1012`, for few values of a tag. */
function reasonOf(error) {
  const [, code] = /close (\d{4})/.exec(error ?? '') ?? [];
  return code ? `closed ${code}` : 'network';
}
