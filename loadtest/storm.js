/**
 * storm: all who watch lose their connection in the same second and come back,
 * one in nine with nothing but what they had at the very beginning, while
 * others go on drawing.
 *
 * Two bounds: who comes back is live again within 5 s, the second in which all
 * of them return included (30 s at most, which is what the gateway's own storm of
 * 5 000 is held to); and who stayed is none the wiser, p99 of submit to ack within
 * 250 ms.
 */
import { options as optionsOf, undisturbed } from './lib/measured.js';
import { settings } from './lib/settings.js';
import { sleep } from './lib/sleep.js';
import { draws } from './lib/strokes.js';
import { summary } from './lib/summary.js';
import { endOf, enter, leave, me, prepare, reckon, roomsOf } from './lib/world.js';

/** People's devices notice at about the same time. */
const SPREAD_MS = 1_000;

const run = settings({ people: 10, sessions: 10, rooms: 20, events: 100, rounds: 3, duration: '60s', thinkMs: 500 });
const comingBack = run.people * (run.sessions - 1) * run.rounds;

export const options = optionsOf('storm', run, {
  ...undisturbed,
  resume_ms: ['p(99)<5000', 'max<30000'],
  submit_ack_ms: ['p(99)<250'],
  resumes: [`count==${comingBack}`],
  events_caught_up: ['count>0'],
  acks: ['count>20'],
});

export const setup = () => prepare(run);
export const teardown = (world) => leave(run, world);
export const handleSummary = summary('storm', run);

export default async function (world) {
  const account = me(run, world);
  const [own, ...rooms] = roomsOf(world, run.sessions);
  const [stays] = await enter(run, account, [own], { folds: true });
  const leaving = await enter(run, account, rooms);
  const drawing = draws(run, stays, endOf(run, world));
  for (let round = 1; round <= run.rounds; round++) {
    await sleep(world.startedAt + (run.durationMs * round) / (run.rounds + 1) - Date.now());
    leaving.forEach((session, i) => session.cut(Math.random() * SPREAD_MS, i % 9 === 0 ? rooms[i].marks[0] : undefined));
    await Promise.all(leaving.map((session) => session.live()));
  }
  await drawing;
  await reckon(run, account, [stays, ...leaving]);
}
