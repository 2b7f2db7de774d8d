/**
 * What people draw: real drawings (data/drawings.ndjson), shape by shape, each
 * growing under the pen as a whiteboard sends it: the whole shape at every step.
 */
import { SharedArray } from 'k6/data';
import { about, sleep } from './sleep.js';

/** Between two steps of a stroke; whiteboards send ten to twenty a second. */
const STEP_MS = 100;
const STEPS_MOST = 8;
/** Of ten things a person does, so many change or remove what is there. */
const MOVES = 2;
const ERASES = 1;

const drawings = new SharedArray('drawings', () => {
  const rooms = new Map();
  for (const line of open('../data/drawings.ndjson').trim().split('\n')) {
    const { room, shape } = JSON.parse(line);
    rooms.set(room, [...(rooms.get(room) ?? []), shape]);
  }
  return [...rooms.values()];
});

let strokesMade = 0;

/**
 * A person draws in a session's room until `until`: strokes, with a cursor that
 * moves along, and now and then a finished shape is moved or erased.
 */
export async function draws(run, session, until) {
  const drawing = drawings[Math.floor(Math.random() * drawings.length)];
  const finished = [];
  let next = Math.floor(Math.random() * drawing.length);
  await sleep(about(run.thinkMs));
  while (Date.now() < until) {
    const what = Math.random() * 10;
    // Only what is answered for sure is there.
    const touches = what < MOVES + ERASES && finished.length > 0 && session.open === 0;
    if (touches && what < ERASES) session.submit('shape.delete', { shape_id: finished.shift() });
    else if (touches) session.submit('shape.update', { shape_id: finished[0], patch: { x: about(500), y: about(500) } });
    else finished.push(await strokes(session, drawing[next++ % drawing.length], until));
    await sleep(about(run.thinkMs));
  }
}

/** One shape, step by step; its id. */
async function strokes(session, original, until) {
  const id = `${__VU}-${(strokesMade += 1)}`;
  const steps = grown({ ...original, id });
  for (const shape of steps) {
    if (Date.now() >= until) break;
    session.submit('shape.put', { shape });
    session.signal({ x: shape.x, y: shape.y });
    await sleep(STEP_MS);
  }
  return id;
}

/** The shape as it is after each step of its stroke. */
function grown(shape) {
  if (shape.points?.length > 1) {
    const count = Math.min(STEPS_MOST, shape.points.length);
    return parts(count).map((part) => ({ ...shape, points: shape.points.slice(0, Math.ceil(shape.points.length * part)) }));
  }
  if (shape.type === 'text') return [shape];
  return parts(4).map((part) => ({ ...shape, width: shape.width * part, height: shape.height * part }));
}

const parts = (count) => Array.from({ length: count }, (_, i) => (i + 1) / count);

/** `count` shapes for a room's log, from its `offset`th event on: of four events one changes an older shape. */
export function shapesOf(which, offset, count) {
  const drawing = drawings[which % drawings.length];
  return Array.from({ length: count }, (_, i) => {
    const n = offset + i;
    const shape = drawing[n % drawing.length];
    const id = n % 4 === 3 ? `fill-${n - 3}` : `fill-${n}`;
    return { ...shape, id, x: (shape.x ?? 0) + n };
  });
}
