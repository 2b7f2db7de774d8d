/**
 * Every metric of the scripts, and the thresholds they share. Names end in
 * their unit; all times are Trends in ms. README.md explains each.
 */
import { Counter, Rate, Trend } from 'k6/metrics';

/** The SLO of submits: 99.9 % within 250 ms; p99 over it is a warning. */
export const SLO_MS = 250;

// ------------------------------------------------------------------- latency
export const submitAck = new Trend('submit_ack_ms', true);
export const submitInTime = new Rate('submit_in_time');
export const commitDelivery = new Trend('commit_delivery_ms', true);
export const submitDelivery = new Trend('submit_delivery_ms', true);
export const deliveryInTime = new Rate('delivery_in_time');
export const welcome = new Trend('welcome_ms', true);
export const join = new Trend('join_ms', true);
export const resume = new Trend('resume_ms', true);
export const read = new Trend('read_ms', true);

// --------------------------------------------------------------- correctness
export const gaps = new Counter('gaps');
export const duplicates = new Counter('duplicates');
export const misplaced = new Counter('misplaced');
export const wrongAcks = new Counter('wrong_acks');
export const ackedUnseen = new Counter('acked_unseen');
export const unanswered = new Counter('unanswered');
export const behind = new Counter('behind');
export const foldsDiffer = new Counter('folds_differ');
export const wrongReads = new Counter('wrong_reads');

// -------------------------------------------------------------- what happened
export const submits = new Counter('submits');
export const acks = new Counter('acks');
export const rejects = new Counter('rejects');
export const putOff = new Counter('put_off');
export const delivered = new Counter('events_delivered');
export const caughtUp = new Counter('events_caught_up');
export const signals = new Counter('signals_delivered');
export const sessions = new Counter('sessions');
export const disconnects = new Counter('disconnects');
export const goodbyes = new Counter('goodbyes');
export const resumes = new Counter('resumes');
export const resyncs = new Counter('resyncs');
export const refusals = new Counter('refusals');
export const foldsCompared = new Counter('folds_compared');
export const reads = new Counter('reads');
export const finished = new Counter('people_finished');

// ---------------------------------------------------- the measuring instrument
export const handledLate = new Trend('k6_late_ms', true);
export const skew = new Trend('clock_skew_ms', true);

/**
 * What must hold in every run, however slow: the promise. A person whose script
 * threw is missing in `people_finished`.
 * @param {object} run the settings
 */
export const correct = (run) => ({
  gaps: ['count==0'],
  duplicates: ['count==0'],
  misplaced: ['count==0'],
  wrong_acks: ['count==0'],
  unanswered: ['count==0'],
  behind: ['count==0'],
  folds_differ: ['count==0'],
  wrong_reads: ['count==0'],
  rejects: ['count==0'],
  acked_unseen: run.lossy ? [] : ['count==0'],
  people_finished: [`count==${run.people}`],
  ...Object.fromEntries(run.nodes.map((node) => [`sessions{node:${node}}`, ['count>0']])),
});

/** Where nothing was broken on purpose, nobody is told to start again, or to wait. */
export const undisturbed = { resyncs: ['count==0'], refusals: ['count==0'], put_off: ['count==0'] };

/** The same bounds for a metric as a whole and on each node. */
export const everywhere = (run, metric, bounds) => ({
  [metric]: bounds,
  ...Object.fromEntries(run.nodes.map((node) => [`${metric}{node:${node}}`, bounds])),
});

/**
 * The options of a script in which every person lives through one story.
 * @param {object} run the settings
 * @param {object} thresholds besides those of correctness
 */
export function options(script, run, thresholds) {
  return {
    scenarios: {
      [script]: {
        executor: 'per-vu-iterations',
        vus: run.people,
        iterations: 1,
        maxDuration: `${Math.ceil((run.durationMs + 4 * run.settleMs) / 1000) + 60}s`,
      },
    },
    thresholds: { ...correct(run), ...thresholds },
    tags: { script },
    // Without `url`, whose values are as many as there are rooms.
    systemTags: ['method', 'name', 'status', 'error_code', 'scenario'],
    summaryTrendStats: ['count', 'min', 'avg', 'med', 'p(90)', 'p(95)', 'p(99)', 'p(99.9)', 'max'],
    // Accounts are made slowly where their number a minute is limited.
    setupTimeout: '15m',
    teardownTimeout: '5m',
  };
}
