/**
 * What stands before a run begins (people, rooms, what is in them), what a run
 * ends with, and that nothing stays behind.
 */
import { Account, signIn, signUp } from './api.js';
import * as measured from './measured.js';
import { Session } from './session.js';
import { shapesOf } from './strokes.js';

/** Events of one POST: within the node's limit of 1 MiB, with these drawings. */
const BATCH = 250;

const known = __ENV.USERS ? JSON.parse(open(__ENV.USERS)) : null;

/**
 * For `setup()`: signs people up, or those of the file USERS in, and makes rooms.
 * @returns {Promise<{startedAt: number, people: object[], rooms: {room: number, marks: object[]}[]}>} `marks`:
 * positions of the room's log, the last of them its head then
 */
export async function prepare(run) {
  const people = known ? await regulars(run) : await newcomers(run);
  const world = { startedAt: 0, people, rooms: [] };
  const owner = new Account(run.url, people[0]);
  for (let i = 0; i < run.rooms; i++) {
    const body = { slug: `load-${unique()}-${i}`, schema: 'open' };
    const { json } = await owner.patiently('POST', '/v1/rooms', { body });
    world.rooms.push({ room: json.room, marks: await fill(run, owner, json.room, i) });
  }
  world.startedAt = Date.now();
  return world;
}

/** For `teardown()`: archives the rooms, and erases the people it made. */
export async function leave(run, world) {
  if (run.keep) return;
  const owner = new Account(run.url, world.people[0]);
  for (const { room } of world.rooms) await owner.patiently('DELETE', `/v1/rooms/${room}`, { name: '/v1/rooms/{room}' });
  if (known) return;
  for (const person of world.people) {
    await new Account(run.url, person).patiently('DELETE', '/v1/me');
  }
}

/** This VU's account. */
export const me = (run, world) => new Account(run.url, world.people[(__VU - 1) % world.people.length]);

/** The rooms of this VU's `count` sessions: the first ones all over the rooms, each room with several people. */
export function roomsOf(world, count) {
  const first = (__VU - 1) * Math.ceil(world.rooms.length / world.people.length);
  return Array.from({ length: count }, (_, i) => world.rooms[(first + i) % world.rooms.length]);
}

/** Sessions in these rooms, once all are live. One after the other: k6 takes long to read many rooms at once. */
export async function enter(run, account, rooms, options) {
  const sessions = [];
  for (const { room } of rooms) {
    const session = new Session(run, account, { room, ...options });
    await session.live();
    sessions.push(session);
  }
  return sessions;
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

async function newcomers(run) {
  const made = [];
  for (let i = 0; i < run.people; i++) {
    const person = { email: `load-${unique()}-${i}@load.invalid`, password: `${unique()}${unique()}` };
    const { json } = await signUp(run.url, { ...person, name: `Load ${i}` });
    made.push({ ...person, ...json });
  }
  return made;
}

/** Items of the file are `{"email", "password"}`, or `{"token"}` for a run that ends before the token does. */
async function regulars(run) {
  if (known.length < run.people) throw new Error(`USERS has ${known.length} people, VUS is ${run.people}`);
  const signedIn = [];
  for (const person of known.slice(0, run.people)) {
    const { email, password } = person;
    signedIn.push(person.token ? person : { ...person, ...(await signIn(run.url, { email, password })).json });
  }
  return signedIn;
}

/** Puts `run.events` events of real drawings into a room; positions on the way. */
async function fill(run, owner, room, which) {
  const marks = [];
  for (let done = 0; done < run.events; done += BATCH) {
    const items = shapesOf(which, done, Math.min(BATCH, run.events - done))
      .map((shape, i) => ({ op: `fill-${done + i}`, kind: 'shape.put', shape }));
    const { json } = await owner.patiently('POST', `/v1/rooms/${room}/events`, { body: { items }, name: '/v1/rooms/{room}/events' });
    const { epoch, seq } = json.items[json.items.length - 1];
    marks.push({ epoch, seq });
  }
  return marks;
}

const unique = () => `${Date.now().toString(36)}${Math.floor(Math.random() * 2 ** 40).toString(36)}`;

