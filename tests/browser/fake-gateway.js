/**
 * A gateway of a few lines, for the unit tests of web/roomgate.js: it keeps one
 * room's log and speaks just enough of roomgate.v1 that the client's reconnect,
 * resume and outbox logic can be driven step by step. No network, no clock.
 */

/** The room and the sockets that are open to it. */
export class FakeGateway {
  log = [];
  versions = new Map();
  sockets = [];
  received = [];
  epoch = 7;
  /** Replaced by tests to answer a submit differently; returns true if it did. */
  onSubmit = () => false;
  onJoin = () => false;
  refuseConnections = false;

  /** A class to be passed to the client as `WebSocket`. */
  get WebSocket() {
    const gateway = this;
    return class {
      readyState = 0;
      constructor(url, protocols) {
        Object.assign(this, { url, protocols });
        gateway.sockets.push(this);
        queueMicrotask(() => gateway.#accept(this));
      }
      send(text) {
        for (const message of [JSON.parse(text)].flat()) gateway.receive(this, message);
      }
      close() {
        this.readyState = 3;
      }
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  #accept(socket) {
    if (socket.readyState === 3) return;
    if (this.refuseConnections) return this.close(1006, socket);
    socket.readyState = 1;
    socket.onopen?.();
    this.say({ type: 'welcome', session: `s${this.sockets.length}`, node: 'n1', user: 'me', name: 'Me', heartbeat_ms: 25_000, limits: {} });
  }

  /** Sends messages in one frame. */
  say(...messages) {
    this.socket.onmessage?.({ data: JSON.stringify(messages.length === 1 ? messages[0] : messages) });
  }

  /** Ends the connection as a server or a network would. */
  close(code, socket = this.socket) {
    socket.readyState = 3;
    socket.onclose?.({ code });
  }

  receive(socket, message) {
    if (socket.readyState !== 1) return;
    this.received.push(message);
    if (message.type === 'ping') this.say({ type: 'pong', t: message.t });
    if (message.type === 'join') this.#join(message);
    if (message.type === 'submit' && !this.onSubmit(message)) this.commitAndAck(message);
  }

  #join(message) {
    if (this.onJoin(message)) return;
    const { id, from } = message;
    const joined = { type: 'joined', id, room: 5, slug: 'demo', epoch: this.epoch, head: this.log.length, role: 'editor', members: [], count: 1 };
    if (from) this.say({ ...joined, mode: 'resume' }, this.eventsPage(from.seq));
    else this.say({ ...joined, mode: 'snapshot' }, this.snapshot());
  }

  eventsPage(after) {
    const events = this.log.slice(after);
    return { type: 'events', room: 5, epoch: this.epoch, from: after + 1, to: after + events.length, head: this.log.length, events, last: true };
  }

  snapshot() {
    const shapes = new Map();
    for (const event of this.log) {
      if (event.kind === 'shape.add') shapes.set(event.shape.id, { version: 1, shape: event.shape });
      if (event.kind === 'shape.delete') shapes.delete(event.shape_id);
      if (event.kind === 'shape.update') {
        const { version, shape } = shapes.get(event.shape_id);
        shapes.set(event.shape_id, { version: version + 1, shape: { ...shape, ...event.patch } });
      }
    }
    return { type: 'snapshot', room: 5, epoch: this.epoch, seq: this.log.length, shapes: [...shapes.values()], page: 1, last: true };
  }

  /** Appends without telling anybody; knows an op that it has seen. */
  commit({ op, kind, ...rest }, user = 'me') {
    const known = this.log.find((event) => event.op === op && event.user === user);
    if (known) return { event: known, duplicate: true };
    const { type, room, id, ...body } = rest;
    const shapeId = body.shape?.id ?? body.shape_id;
    const version = (this.versions.get(shapeId) ?? 0) + 1;
    this.versions.set(shapeId, version);
    const event = { type: 'event', room: 5, epoch: this.epoch, seq: this.log.length + 1, op, kind, user, at: 0, version, ...body };
    this.log.push(event);
    return { event, duplicate: false };
  }

  ack({ event, duplicate }) {
    return { type: 'ack', room: 5, op: event.op, epoch: event.epoch, seq: event.seq, version: event.version, ...(duplicate && { duplicate }) };
  }

  commitAndAck(message) {
    const done = this.commit(message);
    if (!done.duplicate) this.say(done.event);
    this.say(this.ack(done));
  }

  /** What the client submitted so far, over all connections. */
  submits() {
    return this.received.filter(({ type }) => type === 'submit');
  }
}

/** Like localStorage, for as long as the test keeps it. */
export class FakeStorage {
  #items = new Map();
  get length() {
    return this.#items.size;
  }
  key(index) {
    return [...this.#items.keys()][index] ?? null;
  }
  getItem(key) {
    return this.#items.get(key) ?? null;
  }
  setItem(key, value) {
    this.#items.set(key, value);
  }
  removeItem(key) {
    this.#items.delete(key);
  }
}
