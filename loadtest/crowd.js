/**
 * crowd: one room, a few who draw and many who watch.
 *
 * What viewers wait for is delivery, so that is bounded: p99 within 250 ms of the
 * commit, on every node. Those who draw must not pay for the crowd: p99 of submit
 * to ack within 250 ms.
 */
import { everywhere, options as optionsOf, undisturbed } from './lib/measured.js';
import { settings } from './lib/settings.js';
import { sleep } from './lib/sleep.js';
import { draws } from './lib/strokes.js';
import { summary } from './lib/summary.js';
import { endOf, enter, leave, me, prepare, reckon, roomsOf } from './lib/world.js';

const run = settings({ people: 10, sessions: 10, rooms: 1, writers: 2, duration: '60s', thinkMs: 1000 });

export const options = optionsOf('crowd', run, {
  ...undisturbed,
  ...everywhere(run, 'commit_delivery_ms', ['p(99)<250']),
  submit_ack_ms: ['p(99)<250'],
  acks: ['count>20'],
  events_delivered: [`count>${20 * run.people * run.sessions}`],
  folds_compared: ['count>0'],
});

export const setup = () => prepare(run);
export const teardown = (world) => leave(run, world);
export const handleSummary = summary('crowd', run);

export default async function (world) {
  const account = me(run, world);
  const [room, ...more] = roomsOf(world, run.sessions);
  const [first] = await enter(run, account, [room], { folds: true });
  const others = await enter(run, account, more);
  if (__VU <= run.writers) await draws(run, first, endOf(run, world));
  else await sleep(endOf(run, world) - Date.now());
  await reckon(run, account, [first, ...others]);
}
