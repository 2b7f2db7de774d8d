// What web/roomgate.js promises, without a browser or a server.
import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

import { Account, Client, applyEvent, mergePatch, newId } from '../../web/roomgate.js';
import { FakeGateway, FakeStorage } from './fake-gateway.js';

let gateway;
let storage;
let account;

beforeEach((t) => {
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_700_000_000_000 });
  gateway = new FakeGateway();
  storage = new FakeStorage();
  account = { refreshed: 0, token: async () => 'jwt', refresh: async () => { account.refreshed += 1; return 'jwt2'; } };
});

/** Lets promises and microtasks run; no time passes. */
const settle = async () => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

async function pass(ms) {
  for (let left = ms; left > 0; left -= 250) {
    mock.timers.tick(Math.min(250, left));
    await settle();
  }
}

async function joined(options = {}) {
  const client = new Client({ account, url: 'ws://gate/v1/ws', WebSocket: gateway.WebSocket, storage, random: () => 0.5, ...options });
  const room = client.join({ slug: 'demo' });
  client.start();
  await settle();
  return { client, room };
}

const rect = (id, x = 0) => ({ id, type: 'rect', x, y: 0, width: 10, height: 10 });
const ids = (room) => room.shapes().map(({ id }) => id).sort();

test('the token goes into the subprotocol, never into the address', async () => {
  await joined();
  assert.deepEqual(gateway.socket.protocols, ['roomgate.v1', 'bearer.jwt']);
  assert.equal(gateway.socket.url, 'ws://gate/v1/ws');
});

test('with hello the token is the first message', async () => {
  await joined({ hello: true });
  assert.deepEqual(gateway.socket.protocols, ['roomgate.v1']);
  assert.equal(gateway.received[0].type, 'hello');
  assert.equal(gateway.received[0].token, 'jwt');
});

test('an own shape shows at once and is saved only by the ack', async () => {
  const { room } = await joined();
  let submit;
  gateway.onSubmit = (message) => { submit = message; return true; };
  const outcome = room.submit('shape.add', { shape: rect('a') });
  await settle();
  assert.deepEqual(ids(room), ['a']);
  assert.deepEqual(room.saved, { state: 'saving', count: 1 });
  const done = gateway.commit(submit);
  gateway.say(done.event); // seen in the log, but the promise is the ack
  assert.equal(room.saved.count, 1);
  gateway.say(gateway.ack(done));
  assert.deepEqual(room.saved, { state: 'saved', count: 0 });
  assert.equal((await outcome).seq, 1);
  assert.deepEqual(ids(room), ['a']);
  assert.equal(storage.length, 0);
});

test('an ack before the event keeps the shape on the page', async () => {
  const { room } = await joined();
  let done;
  gateway.onSubmit = (message) => { done = gateway.commit(message); gateway.say(gateway.ack(done)); return true; };
  room.submit('shape.add', { shape: rect('a') });
  await settle();
  assert.deepEqual(ids(room), ['a']);
  assert.equal(room.saved.state, 'saved');
  gateway.say(done.event);
  assert.deepEqual(ids(room), ['a']);
  assert.equal(room.confirmed.get('a').version, 1);
});

test('work without an answer turns from saving to unsaved', async () => {
  const { room } = await joined();
  gateway.onSubmit = () => true;
  const marks = [];
  room.on('saved', ({ state }) => marks.push(state));
  room.submit('shape.add', { shape: rect('a') });
  await pass(3_500);
  assert.deepEqual(marks, ['saving', 'unsaved']);
});

test('a reject takes the shape off the page again', async () => {
  const { room } = await joined();
  gateway.onSubmit = ({ op }) => { gateway.say({ type: 'reject', room: 5, op, code: 'invalid_shape', message: 'no' }); return true; };
  const rejects = [];
  room.on('reject', (reject) => rejects.push(reject.code));
  const outcome = await room.submit('shape.add', { shape: rect('a') });
  assert.deepEqual(outcome.ok, false);
  assert.deepEqual(rejects, ['invalid_shape']);
  assert.deepEqual(ids(room), []);
  assert.equal(room.saved.state, 'saved');
  assert.equal(storage.length, 0);
});

test('a rejected change shows the shape as the log has it', async () => {
  const { room } = await joined();
  await room.submit('shape.add', { shape: rect('a', 1) });
  gateway.onSubmit = ({ op }) => { gateway.say({ type: 'reject', room: 5, op, code: 'forbidden', message: 'no' }); return true; };
  const moving = room.submit('shape.update', { shape_id: 'a', patch: { x: 50 } });
  assert.equal(room.shape('a').x, 50);
  await moving;
  assert.equal(room.shape('a').x, 1);
});

test('"not now" keeps the operation, with the same op, until it goes through', async () => {
  const { room } = await joined();
  gateway.onSubmit = ({ op }) => {
    gateway.say({ type: 'reject', room: 5, op, code: 'read_only', message: 'no primary', retry_after_ms: 500 });
    return true;
  };
  room.submit('shape.add', { shape: rect('a') });
  await pass(3_000);
  assert.equal(room.saved.state, 'unsaved');
  gateway.onSubmit = () => false;
  await pass(1_000);
  assert.equal(room.saved.state, 'saved');
  assert.equal(new Set(gateway.submits().map(({ op }) => op)).size, 1);
  assert.equal(gateway.log.length, 1);
});

test('an operation lost with the connection is submitted again under the same op', async () => {
  const { room } = await joined();
  gateway.onSubmit = () => true;
  room.submit('shape.add', { shape: rect('a') });
  await settle();
  gateway.close(1006);
  assert.equal(room.saved.state, 'unsaved');
  gateway.onSubmit = () => false;
  await pass(2_000);
  assert.equal(room.saved.state, 'saved');
  const [first, second] = gateway.submits();
  assert.equal(first.op, second.op);
  assert.equal(gateway.log.length, 1);
});

test('once the log has an own change, later changes of others show, acknowledged or not', async () => {
  const { room } = await joined();
  await room.submit('shape.add', { shape: rect('a', 1) });
  gateway.onSubmit = (message) => { gateway.say(gateway.commit(message).event); return true; };
  room.submit('shape.update', { shape_id: 'a', patch: { x: 2 } });
  await settle();
  gateway.say(gateway.commit({ op: 'x', kind: 'shape.update', shape_id: 'a', patch: { x: 3 } }, 'other').event);
  assert.equal(room.shape('a').x, 3);
  assert.equal(room.saved.count, 1);
});

test('an acknowledged change that a failover lost leaves the page', async () => {
  const { room } = await joined();
  gateway.onSubmit = (message) => { gateway.say(gateway.ack(gateway.commit(message))); return true; };
  room.submit('shape.add', { shape: rect('a') });
  await settle();
  assert.deepEqual(ids(room), ['a']);
  gateway.log.length = 0;
  gateway.say({ type: 'resync', room: 5, reason: 'position_lost' }, gateway.snapshot());
  assert.deepEqual(ids(room), []);
});

test('a duplicate ack counts as saved', async () => {
  const { room } = await joined();
  gateway.onSubmit = (message) => { gateway.commit(message); return true; }; // committed, then the node dies
  const outcome = room.submit('shape.add', { shape: rect('a') });
  await settle();
  gateway.close(1006);
  gateway.onSubmit = () => false;
  await pass(2_000);
  assert.equal((await outcome).duplicate, true);
  assert.equal(room.saved.state, 'saved');
  assert.deepEqual(ids(room), ['a']);
  assert.equal(gateway.log.length, 1);
});

test('a reload takes up unacknowledged work', async () => {
  const first = await joined();
  gateway.onSubmit = () => true;
  first.room.submit('shape.add', { shape: rect('a') });
  first.room.submit('shape.add', { shape: rect('b') });
  await settle();
  first.client.stop();
  gateway.onSubmit = () => false;
  const { room } = await joined();
  assert.deepEqual(ids(room), ['a', 'b']);
  assert.equal(room.saved.state, 'saved');
  assert.deepEqual(gateway.log.map((event) => event.shape.id), ['a', 'b']);
  assert.equal(storage.length, 0);
});

test('operations made before the first join are kept and sent after it', async () => {
  gateway.refuseConnections = true;
  const { client, room } = await joined();
  room.submit('shape.add', { shape: rect('a') });
  assert.equal(room.saved.state, 'unsaved');
  gateway.refuseConnections = false;
  await pass(3_000);
  assert.equal(client.status, 'open');
  assert.equal(room.saved.state, 'saved');
  assert.equal(gateway.log.length, 1);
});

test('after a break the log goes on where it ended', async () => {
  const { room } = await joined();
  await room.submit('shape.add', { shape: rect('a') });
  gateway.close(1012);
  gateway.commit({ op: 'x', kind: 'shape.add', shape: rect('b') }, 'other');
  gateway.commit({ op: 'y', kind: 'shape.update', shape_id: 'a', patch: { x: 9 } }, 'other');
  await pass(1_000);
  const join = gateway.received.findLast(({ type }) => type === 'join');
  assert.deepEqual(join.from, { epoch: 7, seq: 1 });
  assert.equal(join.room, 5);
  assert.deepEqual(ids(room), ['a', 'b']);
  assert.equal(room.shape('a').x, 9);
  assert.deepEqual(room.errors, { gaps: 0, repeats: 0, misplaced: 0 });
});

test('a resync replaces the state by the snapshot and drops what was lost', async () => {
  const { room } = await joined();
  await room.submit('shape.add', { shape: rect('a') });
  gateway.log.length = 0;
  gateway.epoch = 8;
  gateway.commit({ op: 'z', kind: 'shape.add', shape: rect('b') }, 'other');
  gateway.onJoin = ({ id }) => {
    gateway.say({ type: 'joined', id, room: 5, slug: 'demo', epoch: 8, head: 1, role: 'editor', mode: 'snapshot', members: [], count: 1 });
    gateway.say({ type: 'resync', room: 5, reason: 'position_lost' }, gateway.snapshot());
    return true;
  };
  const reasons = [];
  room.on('resync', ({ reason }) => reasons.push(reason));
  gateway.close(1006);
  await pass(1_000);
  assert.deepEqual(reasons, ['position_lost']);
  assert.deepEqual(ids(room), ['b']);
  assert.deepEqual(room.position, { epoch: 8, seq: 1 });
  assert.equal(room.state, 'live');
});

test('a resync in a live room works without a new join', async () => {
  const { room } = await joined();
  await room.submit('shape.add', { shape: rect('a') });
  gateway.log.length = 0;
  gateway.say({ type: 'resync', room: 5, reason: 'position_lost' }, gateway.snapshot());
  assert.deepEqual(ids(room), []);
  assert.equal(room.state, 'live');
});

test('a hole or a repeat in the log is counted, not folded, and a hole is asked for again', async () => {
  const { room } = await joined();
  await room.submit('shape.add', { shape: rect('a') });
  gateway.say(gateway.log[0]);
  assert.equal(room.errors.repeats, 1);
  gateway.commit({ op: 'x', kind: 'shape.add', shape: rect('b') }, 'other');
  const later = gateway.commit({ op: 'y', kind: 'shape.add', shape: rect('c') }, 'other');
  gateway.say(later.event);
  await settle();
  assert.equal(room.errors.gaps, 1);
  assert.deepEqual(ids(room), ['a', 'b', 'c']);
});

test('arrays of messages are handled in order', async () => {
  const { room } = await joined();
  const one = gateway.commit({ op: 'x', kind: 'shape.add', shape: rect('a') }, 'other');
  const two = gateway.commit({ op: 'y', kind: 'shape.delete', shape_id: 'a' }, 'other');
  gateway.say(one.event, two.event);
  assert.deepEqual(ids(room), []);
  assert.equal(room.position.seq, 2);
});

test('operations on one shape go out one after another, others side by side', async () => {
  const { room } = await joined();
  gateway.onSubmit = () => true;
  room.submit('shape.add', { shape: rect('a') });
  room.submit('shape.add', { shape: rect('b') });
  room.submit('shape.update', { shape_id: 'a', patch: { x: 1 } });
  room.submit('shape.update', { shape_id: 'a', patch: { x: 2 } });
  await settle();
  assert.deepEqual(gateway.submits().map(({ kind, shape }) => `${kind} ${shape.id}`), ['shape.add a', 'shape.add b']);
  gateway.onSubmit = () => false;
  gateway.commitAndAck(gateway.submits()[0]);
  await settle();
  // The two waiting changes became one.
  assert.deepEqual(gateway.submits()[2].patch, { x: 2 });
  assert.equal(gateway.log.length, 2);
  assert.equal(room.shape('a').x, 2);
});

test('clearing waits for what was before it, and holds back what comes after', async () => {
  const { room } = await joined();
  gateway.onSubmit = () => true;
  room.submit('shape.add', { shape: rect('a') });
  room.submit('room.clear');
  room.submit('shape.add', { shape: rect('b') });
  assert.deepEqual(ids(room), ['b']);
  await settle();
  assert.equal(gateway.submits().length, 1);
  gateway.commitAndAck(gateway.submits()[0]);
  await settle();
  assert.deepEqual(gateway.submits().map(({ kind }) => kind), ['shape.add', 'room.clear']);
});

test('the announced rate is kept', async () => {
  const { room } = await joined();
  gateway.say({ type: 'joined', room: 5 }); // without an id of ours: harmless
  gateway.close(1006);
  const accept = gateway.say;
  gateway.say = (...messages) => accept.apply(gateway, messages.map((m) => (m.type === 'welcome' ? { ...m, limits: { submits_per_second: 10, submit_burst: 10 } } : m)));
  await pass(1_000);
  for (let i = 0; i < 50; i++) room.submit('shape.add', { shape: rect(`s${i}`) });
  await settle();
  const burst = gateway.submits().length;
  assert.ok(burst <= 10, `${burst} at once`);
  await pass(1_000);
  assert.ok(gateway.submits().length <= burst + 10);
  await pass(8_000);
  assert.equal(room.saved.state, 'saved');
});

test('a silent connection is pinged, and left 10 s later', async () => {
  const { client } = await joined();
  const receive = gateway.receive;
  await pass(1_000);
  gateway.receive = () => {}; // frozen
  await pass(26_000);
  assert.equal(client.status, 'open');
  gateway.refuseConnections = true;
  await pass(11_000);
  assert.notEqual(client.status, 'open');
  gateway.refuseConnections = false;
  gateway.receive = receive;
  await pass(9_000);
  assert.equal(client.status, 'open');
});

test('the server\'s reconnect hint is honoured', async () => {
  const { client } = await joined();
  gateway.say({ type: 'goodbye', reason: 'restart', reconnect_after_ms: 4_000 });
  gateway.close(1012);
  await pass(3_900);
  assert.equal(gateway.sockets.length, 1);
  await pass(600);
  assert.equal(gateway.sockets.length, 2);
  assert.equal(client.status, 'open');
});

test('back-off grows while nobody answers', async () => {
  gateway.refuseConnections = true;
  await joined();
  await pass(60_000);
  const attempts = gateway.sockets.length;
  assert.ok(attempts > 5 && attempts < 30, `${attempts} attempts in a minute`);
});

test('an expired token is refreshed before reconnecting; a kick is final', async () => {
  const { client } = await joined();
  gateway.close(4101);
  await pass(1_000);
  assert.equal(account.refreshed, 1);
  assert.equal(client.status, 'open');
  gateway.close(4102);
  await pass(60_000);
  assert.equal(client.status, 'stopped');
  assert.equal(client.reason, 'kicked');
  assert.equal(gateway.sockets.length, 2);
});

test('token_expiring is answered with a fresh token on the same connection', async () => {
  await joined();
  gateway.say({ type: 'token_expiring', expires_at: 0 });
  await settle();
  assert.deepEqual(gateway.received.at(-1), { type: 'refresh', token: 'jwt2' });
  assert.equal(gateway.sockets.length, 1);
});

test('when nobody is signed in any more the page is told, and work is kept', async () => {
  const { client, room } = await joined();
  gateway.onSubmit = () => true;
  room.submit('shape.add', { shape: rect('a') });
  await settle();
  account.refresh = async () => { throw Object.assign(new Error('gone'), { status: 401 }); };
  gateway.close(4100);
  await settle();
  assert.equal(client.status, 'signin');
  assert.equal(storage.length, 1);
  gateway.onSubmit = () => false;
  client.start();
  await settle();
  assert.equal(room.saved.state, 'saved');
});

test('a room with a password asks for it and lets in', async () => {
  gateway.onJoin = ({ id, password }) => {
    if (password === 'sesame') return false;
    gateway.say({ type: 'error', id, of: 'join', code: password ? 'bad_password' : 'password_required', message: 'password' });
    return true;
  };
  const { room } = await joined();
  assert.equal(room.state, 'refused');
  assert.equal(room.refusal.code, 'password_required');
  room.enter({ password: 'sesame' });
  await settle();
  assert.equal(room.state, 'live');
});

test('a room that can\'t be read just now is asked for again', async () => {
  let asked = 0;
  gateway.onJoin = ({ id }) => {
    asked += 1;
    if (asked > 2) return false;
    gateway.say({ type: 'error', id, of: 'join', code: 'shard_unavailable', message: 'wait' });
    return true;
  };
  const { room } = await joined();
  await pass(3_000);
  assert.equal(room.state, 'live');
});

test('of many signals the last one is sent', async () => {
  const { room } = await joined();
  await pass(100);
  for (let x = 0; x < 100; x++) room.signal({ x });
  await pass(100);
  const signals = gateway.received.filter(({ type }) => type === 'signal');
  assert.deepEqual(signals.map(({ data }) => data.x), [99]);
});

test('presence is followed, without oneself', async () => {
  const { room } = await joined();
  gateway.say({ type: 'presence', room: 5, joined: [{ session: 'o', user: 'u', name: 'Ada', role: 'editor' }], left: [], count: 2 });
  assert.equal(room.count, 2);
  assert.equal(room.members.get('o').name, 'Ada');
  gateway.say({ type: 'presence', room: 5, joined: [], left: ['o'], count: 1 });
  assert.equal(room.members.size, 0);
});

test('a snapshot of several pages replaces the state only when complete', async () => {
  gateway.onJoin = ({ id }) => {
    gateway.say({ type: 'joined', id, room: 5, slug: 'demo', epoch: 7, head: 2, role: 'editor', mode: 'snapshot', members: [], count: 1 });
    return true;
  };
  const { room } = await joined();
  const page = { type: 'snapshot', room: 5, epoch: 7, seq: 2 };
  gateway.say({ ...page, shapes: [{ version: 1, shape: rect('a') }], page: 1, last: false });
  assert.deepEqual(ids(room), []);
  gateway.say({ ...page, shapes: [{ version: 1, shape: rect('b') }], page: 2, last: true });
  assert.deepEqual(ids(room), ['a', 'b']);
});

test('folding follows RFC 7396 and keeps tombstones', () => {
  assert.deepEqual(mergePatch({ a: 1, b: { c: 2, d: 3 } }, { b: { c: null, e: [1] }, f: null }), { a: 1, b: { d: 3, e: [1] } });
  const hostile = mergePatch({}, JSON.parse('{"__proto__":{"x":1}}'));
  assert.equal(Object.getPrototypeOf(hostile), Object.prototype);
  const shapes = new Map();
  applyEvent(shapes, { kind: 'shape.add', shape: rect('a'), version: 1 });
  applyEvent(shapes, { kind: 'room.clear' });
  assert.deepEqual(shapes.get('a'), { version: 2, shape: null });
});

test('ids are unique, sort by creation and fit the protocol', () => {
  const made = Array.from({ length: 1_000 }, newId);
  assert.equal(new Set(made).size, 1_000);
  assert.deepEqual([...made].sort(), made);
  assert.ok(made.every((id) => /^[A-Za-z0-9_-]{1,64}$/.test(id)));
});

test('of two pages that refresh the token one asks and both have it', async () => {
  let asked = 0;
  const answer = (body) => ({ ok: true, status: 200, headers: new Map(), text: async () => JSON.stringify(body) });
  const fetch = async (path) => {
    if (path === '/v1/token/refresh') asked += 1;
    return answer({ user: { id: 'u' }, token: `t${asked}`, refresh_token: `r${asked}`, expires_at: Date.now() + 900_000 });
  };
  const account = new Account({ storage, fetch });
  await account.signIn('a@b.c', 'password');
  const tokens = await Promise.all([account.refresh(), account.refresh()]);
  assert.deepEqual(tokens, ['t1', 't1']);
  assert.equal(asked, 1);
  assert.equal(await account.token(), 't1');
});

test('a page refreshes its token by its age, however wrong its clock is', async (t) => {
  const HOUR = 3_600_000;
  const LIFETIME = 900_000;
  for (const ahead of [0, HOUR, -HOUR, 24 * 365 * HOUR]) {
    // The gateway's clock goes on; the page's is elsewhere, and may be set.
    let gatewayNow = 1_800_000_000_000;
    let skew = ahead;
    t.mock.method(Date, 'now', () => gatewayNow + skew);
    let refreshed = 0;
    const token = () => {
      const payload = { sub: 'u', name: 'Zoë', iat: gatewayNow / 1000, exp: (gatewayNow + LIFETIME) / 1000, n: refreshed };
      return `e30.${Buffer.from(JSON.stringify(payload)).toString('base64url')}.signature`;
    };
    const ends = (jwt) => JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url')).exp * 1000;
    const answer = (status, body) => ({ ok: status < 300, status, headers: new Map(), text: async () => JSON.stringify(body) });
    const fetch = async (path, { headers }) => {
      if (path === '/v1/token/refresh') refreshed += 1;
      else if (headers.authorization && ends(headers.authorization.slice(7)) <= gatewayNow) return answer(401, {});
      return answer(200, { user: { id: 'u' }, token: token(), refresh_token: `r${refreshed}`, expires_at: gatewayNow + LIFETIME });
    };
    const kept = new FakeStorage();
    const account = new Account({ storage: kept, fetch });
    await account.signIn('a@b.c', 'password');
    for (let request = 0; request < 20; request++) {
      await account.request('GET', '/v1/me');
      gatewayNow += 1_000;
    }
    assert.equal(refreshed, 0, `${ahead} ms ahead`);
    // A page that is loaded again has the same token, and one that slept a new one.
    await new Account({ storage: kept, fetch }).request('GET', '/v1/me');
    assert.equal(refreshed, 0);
    gatewayNow += LIFETIME - 40_000;
    await account.request('GET', '/v1/me');
    assert.equal(refreshed, 1, `${ahead} ms ahead`);
    // A clock that is set costs one refresh at most.
    for (const jump of [HOUR, -2 * HOUR, 10_000, -5_000]) {
      skew += jump;
      const before = refreshed;
      for (let request = 0; request < 20; request++) await account.request('GET', '/v1/me');
      assert.ok(refreshed - before <= 1, `${jump} ms: ${refreshed - before} refreshes`);
    }
    // Set back by less than the age: the token ends before the page refreshes it.
    gatewayNow += LIFETIME;
    skew -= LIFETIME;
    await account.request('GET', '/v1/me');
    t.mock.restoreAll();
  }
});

test('whatever the network does, the page ends with the log\'s shapes and every operation has one effect', async () => {
  for (let seed = 1; seed <= (Number(process.env.SEEDS) || 40); seed++) await storm(seed);
});

/** A seeded run of drawing, lost answers, lost requests, refusals, breaks and other people's changes. */
async function storm(seed) {
  let state = seed * 2_654_435_761;
  const random = (below) => {
    state = (Math.imul(state ^ (state >>> 15), 2_246_822_519) + 3_266_489_917) >>> 0;
    return state % below;
  };
  gateway = new FakeGateway();
  storage = new FakeStorage();
  let { client, room } = await joined({ random: () => random(1000) / 1000 });
  const outcomes = [];
  const own = new Set();
  gateway.onSubmit = (message) => {
    own.add(message.op);
    const what = random(12);
    if (what < 3) { // the connection breaks: before the commit, after it, or between event and ack
      if (what > 0) {
        const { event, duplicate } = gateway.commit(message);
        if (what === 2 && !duplicate) gateway.say(event);
      }
      gateway.close(1006);
      return true;
    }
    if (what === 3) {
      gateway.say({ type: 'reject', room: 5, op: message.op, code: 'overloaded', message: '', retry_after_ms: 100 });
      return true;
    }
    if (what === 4) {
      const done = gateway.commit(message);
      gateway.say(gateway.ack(done));
      if (!done.duplicate) gateway.say(done.event);
      return true;
    }
    return false;
  };
  for (let step = 0; step < 60; step++) {
    const id = `s${random(6)}`;
    const exists = room.shape(id) !== undefined;
    const what = random(10);
    if (what < 5 && !exists && !room.confirmed.has(id)) outcomes.push(room.submit('shape.add', { shape: rect(id, random(100)) }));
    else if (what < 5 && exists) outcomes.push(room.submit('shape.update', { shape_id: id, patch: { x: random(100) } }));
    else if (what < 7 && room.state === 'live') gateway.say(gateway.commit({ op: `o${step}`, kind: 'shape.add', shape: rect(`o${seed}-${step}`) }, 'other').event);
    else if (what === 7) gateway.close([1006, 1012, 4000, 4002][random(4)]);
    else if (what === 8 && random(4) === 0) {
      client.stop(); // the page is reloaded
      ({ client, room } = await joined({ random: () => random(1000) / 1000 }));
    }
    await pass(random(3) * 250);
  }
  gateway.onSubmit = () => false;
  if (client.status === 'open') gateway.close(1006); // what was lost in silence is asked for again
  await pass(30_000);
  assert.deepEqual(room.saved, { state: 'saved', count: 0 }, `seed ${seed}`);
  const replayed = new Map();
  for (const event of gateway.log) applyEvent(replayed, event);
  const live = [...replayed.values()].map(({ shape }) => shape).filter(Boolean);
  assert.deepEqual(new Set(room.shapes().map((s) => JSON.stringify(s))), new Set(live.map((s) => JSON.stringify(s))), `seed ${seed}`);
  assert.deepEqual(room.errors, { gaps: 0, repeats: 0, misplaced: 0 }, `seed ${seed}`);
  const logged = gateway.log.map(({ user, op }) => `${user} ${op}`);
  assert.equal(new Set(logged).size, logged.length);
  for (const op of own) assert.ok(logged.includes(`me ${op}`), `seed ${seed}: ${op} was lost`);
  assert.equal(storage.length, 0);
  client.stop();
}
