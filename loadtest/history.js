/**
 * history: people who come into rooms with a past, and programs that read it, over
 * WebSocket and HTTP, while somebody draws there.
 *
 * A read is bounded as the gateway's queries are: p95 within 100 ms, and within
 * 500 ms where it is a whole log or an old state. A join that begins with the
 * whole room is bounded as such; one from a position is a page.
 */
import * as measured from './lib/measured.js';
import { Session } from './lib/session.js';
import { settings } from './lib/settings.js';
import { about, sleep } from './lib/sleep.js';
import { draws } from './lib/strokes.js';
import { summary } from './lib/summary.js';
import { endOf, enter, leave, me, prepare, reckon, roomsOf } from './lib/world.js';

const run = settings({ people: 5, sessions: 1, rooms: 5, events: 500, duration: '60s', thinkMs: 1000 });

export const options = measured.options('history', run, {
  ...measured.undisturbed,
  'read_ms{of:page}': ['p(95)<100'],
  'read_ms{of:state}': ['p(95)<100'],
  'read_ms{of:past}': ['p(95)<500'],
  'read_ms{of:log}': ['p(95)<500'],
  'join_ms{mode:snapshot}': ['p(95)<500'],
  'join_ms{mode:resume}': ['p(95)<250'],
  reads: ['count>30'],
  resumes: ['count>3'],
});

export const setup = () => prepare(run);
export const teardown = (world) => leave(run, world);
export const handleSummary = summary('history', run);

export default async function (world) {
  const account = me(run, world);
  const until = endOf(run, world);
  const sessions = await enter(run, account, roomsOf(world, run.sessions), { folds: true });
  const drawing = sessions.map((session) => draws(run, session, until));
  while (Date.now() < until) {
    const { room, marks } = any(world.rooms);
    await any([comesIn, comesBack, readsPage, readsState, readsPast, readsLog])(account, room, any(marks));
    await sleep(about(run.thinkMs));
  }
  await Promise.all(drawing);
  await reckon(run, account, sessions);
}

const any = (list) => list[Math.floor(Math.random() * list.length)];

async function comesIn(account, room) {
  const session = new Session(run, account, { room });
  await session.live();
  session.stop();
}

async function comesBack(account, room, mark) {
  const session = new Session(run, account, { room, from: mark });
  await session.live();
  session.stop();
}

async function readsPage(account, room, { seq }) {
  const { items } = await read(account, 'page', `/v1/rooms/${room}/events?after=${seq - 100}&limit=100`);
  if (items.length !== 100 || !follow(items, seq - 100)) measured.wrongReads.add(1, { of: 'page' });
}

async function readsState(account, room) {
  const { items, seq } = await read(account, 'state', `/v1/rooms/${room}/shapes?limit=100`);
  if (items.length !== 100 || seq < run.events) measured.wrongReads.add(1, { of: 'state' });
}

async function readsPast(account, room, { epoch, seq }) {
  const state = await read(account, 'past', `/v1/rooms/${room}/shapes?seq=${seq}&limit=100`);
  if (state.seq !== seq || state.epoch !== epoch) measured.wrongReads.add(1, { of: 'past' });
}

async function readsLog(account, room) {
  const text = await read(account, 'log', `/v1/rooms/${room}/events?stream=ndjson`);
  const lines = text.trim().split('\n').map((line) => JSON.parse(line));
  const end = lines.pop();
  const whole = end.type === 'end' && end.seq === lines.length && lines.length >= run.events;
  if (!whole || !follow(lines, 0)) measured.wrongReads.add(1, { of: 'log' });
}

/** One GET, without a second try: a refusal is counted as a wrong read. */
async function read(account, of, path) {
  const { status, json, ms } = await account.request('GET', path, { name: of });
  measured.reads.add(1, { of });
  measured.read.add(ms, { of });
  if (status === 200) return json;
  measured.wrongReads.add(1, { of, status: String(status) });
  return { items: [] };
}

const follow = (events, after) => events.every(({ seq }, i) => seq === after + 1 + i);
