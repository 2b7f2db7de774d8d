/**
 * What stands before a run begins (people, rooms, what is in them), what a run
 * ends with, and that nothing stays behind.
 */
import { Account, patiently } from './api.js';
import * as measured from './measured.js';
import { shapesOf } from './strokes.js';

/** Of one POST. */
const BATCH = 500;

const people = __ENV.USERS ? JSON.parse(open(__ENV.USERS)) : null;

/**
 * For `setup()`: signs people up, or those of the file USERS in, and makes rooms.
 * @returns {Promise<{startedAt: number, people: object[], rooms: {room: number, slug: string, head: object}[]}>}
 */
export async function prepare(run) {
  const sessions = people ? await signIn(run) : await signUp(run);
  const world = { startedAt: 0, people: sessions, rooms: [] };
  const owner = new Account(run.url, sessions[0]);
  for (let i = 0; i < run.rooms; i++) {
    const body = { slug: `load-${unique()}-${i}`, schema: 'open' };
    const { json } = await owner.patiently('POST', '/v1/rooms', { body });
    world.rooms.push({ room: json.room, slug: json.slug, head: await fill(run, owner, json.room, i) });
  }
  world.startedAt = Date.now();
  return world;
}

/** For `teardown()`: archives the rooms, and erases the people it made. */
export async function leave(run, world) {
  if (run.keep) return;
  const owner = new Account(run.url, world.people[0]);
  for (const { room } of world.rooms) await owner.patiently('DELETE', `/v1/rooms/${room}`, { name: '/v1/rooms/{room}' });
  if (people) return;
  for (const person of world.people) {
    await new Account(run.url, person).patiently('DELETE', '/v1/me');
  }
}

/** This VU's account. */
export const me = (run, world) => new Account(run.url, world.people[(__VU - 1) % world.people.length]);

/** The rooms of this VU's `count` sessions, so that each room has about as many. */
export function roomsOf(world, count) {
  const first = (__VU - 1) * count;
  return Array.from({ length: count }, (_, i) => world.rooms[(first + i) % world.rooms.length]);
}

/** When the story of everybody ends. */
export const endOf = (run, world) => world.startedAt + run.durationMs;

/**
 * The end of a person's story: every operation answered, everything that is in
 * the log seen, and the fold of what was seen equal to what the gateway says the
 * rooms hold.
 */
export async function reckon(run, account, sessions) {
  const heads = new Map();
  for (const { room } of sessions) if (!heads.has(room)) heads.set(room, await headOf(account, room));
  await Promise.all(sessions.map((session) => session.settled(heads.get(session.room))));
  for (const session of sessions) if (session.folds) await compare(account, session);
  for (const session of sessions) session.stop();
  measured.finished.add(1);
}

async function headOf(account, room) {
  const { json } = await account.patiently('GET', `/v1/rooms/${room}?freshness=primary`, { name: '/v1/rooms/{room}' });
  return json.head;
}

/** The room as the gateway says it was at the session's position. */
async function compare(account, session) {
  const { epoch, seq } = session.position;
  const mine = new Map([...session.shapes].filter(([, { shape }]) => shape));
  const path = `/v1/rooms/${session.room}/shapes?seq=${seq}&min_seq=${epoch}.${seq}`;
  const theirs = await account.all(path, { name: '/v1/rooms/{room}/shapes?seq' });
  const equal = theirs.length === mine.size && theirs.every(({ version, shape }) => {
    const found = mine.get(shape.id);
    return found?.version === version && canonical(found.shape) === canonical(shape);
  });
  measured.foldsCompared.add(1);
  if (!equal) measured.foldsDiffer.add(1);
}

/** JSON with sorted keys. */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join()}}`;
}

async function signUp(run) {
  const made = [];
  for (let i = 0; i < run.people; i++) {
    const body = { email: `load-${unique()}-${i}@load.invalid`, password: `${unique()}${unique()}`, name: `Load ${i}` };
    made.push((await patiently(run.url, 'POST', '/v1/signup', { body, patienceMs: 600_000 })).json);
  }
  return made;
}

/** Items of the file are `{"email", "password"}`, or `{"token"}` for a run that ends before the token does. */
async function signIn(run) {
  if (people.length < run.people) throw new Error(`USERS has ${people.length} people, VUS is ${run.people}`);
  const sessions = [];
  for (const person of people.slice(0, run.people)) {
    const body = { email: person.email, password: person.password };
    const signedIn = () => patiently(run.url, 'POST', '/v1/signin', { body, patienceMs: 600_000 });
    sessions.push(person.token ? person : (await signedIn()).json);
  }
  return sessions;
}

/** Puts `run.events` events of real drawings into a room; its position then. */
async function fill(run, owner, room, which) {
  let head = { epoch: 0, seq: 0 };
  for (let done = 0; done < run.events; done += BATCH) {
    const items = shapesOf(which, done, Math.min(BATCH, run.events - done))
      .map((shape, i) => ({ op: `fill-${done + i}`, kind: 'shape.put', shape }));
    const { json } = await owner.patiently('POST', `/v1/rooms/${room}/events`, { body: { items }, name: '/v1/rooms/{room}/events' });
    const { epoch, seq } = json.items[json.items.length - 1];
    head = { epoch, seq };
  }
  return head;
}

const unique = () => `${Date.now().toString(36)}${Math.floor(Math.random() * 2 ** 40).toString(36)}`;

