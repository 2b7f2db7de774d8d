/**
 * soak: a quiet day's load for as long as one likes, to see what only time shows:
 * tokens that end and are renewed, watchers who come and go, logs that grow.
 *
 * It is long enough for the SLO itself: 99.9 % of submits are acked within
 * 250 ms, and as many events delivered within 250 ms of their commit.
 */
import { everywhere, options as optionsOf, undisturbed } from './lib/measured.js';
import { settings } from './lib/settings.js';
import { about, sleep } from './lib/sleep.js';
import { draws } from './lib/strokes.js';
import { summary } from './lib/summary.js';
import { endOf, enter, leave, me, prepare, reckon, roomsOf } from './lib/world.js';

const run = settings({ people: 10, sessions: 4, rooms: 15, duration: '30m', thinkMs: 3000, stayMs: 60_000 });

export const options = optionsOf('soak', run, {
  ...undisturbed,
  ...everywhere(run, 'submit_in_time', ['rate>=0.999']),
  ...everywhere(run, 'delivery_in_time', ['rate>=0.999']),
  acks: ['count>100'],
  resumes: ['count>0'],
  folds_compared: ['count>0'],
});

export const setup = () => prepare(run);
export const teardown = (world) => leave(run, world);
export const handleSummary = summary('soak', run);

export default async function (world) {
  const account = me(run, world);
  const until = endOf(run, world);
  const [watched, ...drawn] = roomsOf(world, run.sessions);
  const [watcher] = await enter(run, account, [watched]);
  const sessions = await enter(run, account, drawn, { folds: true });
  await Promise.all([comesAndGoes(watcher, until), ...sessions.map((session) => draws(run, session, until))]);
  await reckon(run, account, [watcher, ...sessions]);
}

async function comesAndGoes(session, until) {
  while (Date.now() < until) {
    await sleep(Math.min(about(run.stayMs), until - Date.now()));
    session.cut();
    await session.live();
  }
}
