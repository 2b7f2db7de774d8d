/**
 * draw: many rooms with a few people each, drawing as people do.
 *
 * Bounded by what the gateway warns at: p99 of submit to ack, and of commit to
 * delivery, within 250 ms, on every node. A minute is too short for the SLO
 * itself (99.9 %), one pause would decide; `soak` holds that.
 */
import { everywhere, options as optionsOf, undisturbed } from './lib/measured.js';
import { settings } from './lib/settings.js';
import { draws } from './lib/strokes.js';
import { summary } from './lib/summary.js';
import { endOf, enter, leave, me, prepare, reckon, roomsOf } from './lib/world.js';

const run = settings({ people: 10, sessions: 5, rooms: 25, duration: '60s' });

export const options = optionsOf('draw', run, {
  ...undisturbed,
  ...everywhere(run, 'submit_ack_ms', ['p(99)<250']),
  ...everywhere(run, 'commit_delivery_ms', ['p(99)<250']),
  acks: ['count>100'],
  events_delivered: ['count>100'],
  folds_compared: [`count==${run.people * run.sessions}`],
});

export const setup = () => prepare(run);
export const teardown = (world) => leave(run, world);
export const handleSummary = summary('draw', run);

export default async function (world) {
  const account = me(run, world);
  const sessions = await enter(run, account, roomsOf(world, run.sessions), { folds: true });
  await Promise.all(sessions.map((session) => draws(run, session, endOf(run, world))));
  await reckon(run, account, sessions);
}
