/**
 * failover: people draw while the operator kills, freezes or fails over something
 * (`run.py failover --fault …`, or by hand). Whoever loses the connection comes
 * back; whatever had no answer is submitted again.
 *
 * The SLO can't hold in the middle of a fault, and a submit counts from the moment
 * it was drawn. So: p90 within 250 ms, which says that the fault was felt for less
 * than a tenth of the run; nobody waits longer than 30 s for anything; and the
 * promise holds throughout. Who was shown events that an async failover then lost
 * must be told, not left with a gap: with LOSSY=1 that is a `resync`, and acked
 * operations may be gone.
 */
import { options as optionsOf } from './lib/measured.js';
import { settings } from './lib/settings.js';
import { draws } from './lib/strokes.js';
import { summary } from './lib/summary.js';
import { endOf, enter, leave, me, prepare, reckon, roomsOf } from './lib/world.js';

const run = settings({ people: 10, sessions: 4, rooms: 20, duration: '60s' });

export const options = optionsOf('failover', run, {
  submit_ack_ms: ['p(90)<250', 'max<30000'],
  resume_ms: ['max<30000'],
  resyncs: run.lossy ? [] : ['count==0'],
  acks: ['count>100'],
  events_delivered: ['count>100'],
  folds_compared: [`count==${run.people * run.sessions}`],
});

export const setup = () => prepare(run);
export const teardown = (world) => leave(run, world);
export const handleSummary = summary('failover', run);

export default async function (world) {
  const account = me(run, world);
  const sessions = await enter(run, account, roomsOf(world, run.sessions), { folds: true });
  await Promise.all(sessions.map((session) => draws(run, session, endOf(run, world))));
  await reckon(run, account, sessions);
}
