/**
 * smoke: everything once, in ten seconds. A few people draw together, lose their
 * connection and come back; what they read over HTTP is what they saw.
 *
 * It asks whether everything works, on machines that do other things as well, so
 * its bounds on latency are on the median: half of what people do is within what
 * the SLO grants to all but one in a thousand.
 */
import { everywhere, options as optionsOf, undisturbed } from './lib/measured.js';
import { settings } from './lib/settings.js';
import { sleep } from './lib/sleep.js';
import { draws } from './lib/strokes.js';
import { summary } from './lib/summary.js';
import { endOf, enter, leave, me, prepare, reckon, roomsOf } from './lib/world.js';

const run = settings({ people: 4, sessions: 3, rooms: 3, duration: '10s', thinkMs: 500 });

export const options = optionsOf('smoke', run, {
  ...undisturbed,
  ...everywhere(run, 'submit_ack_ms', ['med<250']),
  commit_delivery_ms: ['med<250'],
  acks: ['count>100'],
  events_delivered: ['count>300'],
  resumes: [`count>=${run.people * run.sessions}`],
  folds_compared: ['count>0'],
});

export const setup = () => prepare(run);
export const teardown = (world) => leave(run, world);
export const handleSummary = summary('smoke', run);

export default async function (world) {
  const account = me(run, world);
  const sessions = await enter(run, account, roomsOf(world, run.sessions), { folds: true });
  const until = endOf(run, world);
  const drawing = sessions.map((session) => draws(run, session, until));
  await sleep(run.durationMs / 2);
  for (const session of sessions) session.cut(0);
  await Promise.all(drawing);
  await reckon(run, account, sessions);
}
