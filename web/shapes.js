/**
 * What shapes look like: paths, bounds, hits, drawing. Pure but for the canvas
 * that is passed in; everything derived from a shape is cached by the shape
 * object, which is never changed in place.
 *
 * Draws the schema `drawing` (rect, ellipse, circle, line, arrow, pencil, text,
 * image) and, for rooms with schema `open`, shapes as Excalidraw makes them
 * (rectangle, diamond, draw, freedraw, angle, strokeColor, backgroundColor).
 * Points are taken relative to the shape's `x, y` where it has them, so a
 * stroke with `x: 0, y: 0` has plain coordinates and is moved by two numbers.
 *
 * Shapes come from strangers: every field may be missing or absurd.
 */

/** @typedef {{x: number, y: number, width: number, height: number}} Box */

const FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const LINE_HEIGHT = 1.25;
const FAR = 1e7;

const cache = new WeakMap();

/** Everything derived from a shape. @returns {{path: Path2D|null, closed: boolean, box: Box, angle: number}} */
function look(shape) {
  let found = cache.get(shape);
  if (!found) cache.set(shape, (found = derive(shape)));
  return found;
}

function derive(shape) {
  const at = { x: number(shape.x), y: number(shape.y) };
  const size = { width: number(shape.width), height: number(shape.height) };
  const angle = number(shape.angle);
  const plain = (path, box, closed) => ({ path, box: upright(box), closed, angle });
  switch (shape.type) {
    case 'rect':
    case 'rectangle':
    case 'image': {
      const path = new Path2D();
      path.rect(at.x, at.y, size.width, size.height);
      return plain(path, { ...at, ...size }, true);
    }
    case 'diamond': {
      const { x, y } = at;
      const { width: w, height: h } = size;
      return plain(polygon([[x + w / 2, y], [x + w, y + h / 2], [x + w / 2, y + h], [x, y + h / 2]], true), { ...at, ...size }, true);
    }
    case 'ellipse': {
      const path = new Path2D();
      const { x, y, width, height } = upright({ ...at, ...size });
      path.ellipse(x + width / 2, y + height / 2, width / 2, height / 2, 0, 0, 2 * Math.PI);
      return plain(path, { x, y, width, height }, true);
    }
    case 'circle': {
      const r = Math.abs(number(shape.radius));
      const path = new Path2D();
      path.arc(at.x, at.y, r, 0, 2 * Math.PI);
      return plain(path, { x: at.x - r, y: at.y - r, width: 2 * r, height: 2 * r }, true);
    }
    case 'text':
      return plain(null, textBox(shape, at), true);
    default:
      return lineLook(shape, at, angle);
  }
}

/** Lines, arrows, strokes, and whatever else has points. */
function lineLook(shape, at, angle) {
  let points = pointsOf(shape).map(([x, y]) => [at.x + x, at.y + y]);
  if (points.length === 0 && Number.isFinite(shape.x2)) points = [[at.x, at.y], [shape.x2, number(shape.y2)]];
  const drawn = ['pencil', 'draw', 'freedraw'].includes(shape.type);
  const [first, last] = [points[0], points.at(-1)];
  const closed = points.length > 2 && Math.hypot(first[0] - last[0], first[1] - last[1]) < 1 && filled(shape);
  const path = drawn ? curve(points) : polygon(points, false);
  if (shape.type === 'arrow' && points.length > 1) path.addPath(arrowHead(points, number(shape.strokeWidth, 2)));
  return { path, closed, box: boxOf(points, at), angle };
}

function pointsOf(shape) {
  if (!Array.isArray(shape.points)) return [];
  const points = [];
  for (const point of shape.points) {
    const [x, y] = Array.isArray(point) ? point : [point?.x, point?.y];
    if (Number.isFinite(x) && Number.isFinite(y)) points.push([clamp(x), clamp(y)]);
  }
  return points;
}

function polygon(points, close) {
  const path = new Path2D();
  points.forEach(([x, y], i) => (i === 0 ? path.moveTo(x, y) : path.lineTo(x, y)));
  if (close) path.closePath();
  return path;
}

/** A smooth line through the middles of a stroke's segments. */
function curve(points) {
  const path = new Path2D();
  if (points.length === 0) return path;
  path.moveTo(...points[0]);
  if (points.length === 1) path.lineTo(points[0][0] + 0.01, points[0][1]);
  for (let i = 1; i < points.length - 1; i++) {
    const [x, y] = points[i];
    const [nextX, nextY] = points[i + 1];
    path.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  }
  path.lineTo(...points.at(-1));
  return path;
}

function arrowHead(points, strokeWidth) {
  const [x, y] = points.at(-1);
  const [fromX, fromY] = points.at(-2);
  const angle = Math.atan2(y - fromY, x - fromX);
  const length = 8 + 2 * strokeWidth;
  const wing = (turn) => [x - length * Math.cos(angle + turn), y - length * Math.sin(angle + turn)];
  return polygon([wing(0.45), [x, y], wing(-0.45)], false);
}

function boxOf(points, at) {
  if (points.length === 0) return { ...at, width: 0, height: 0 };
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) {
    left = Math.min(left, x);
    top = Math.min(top, y);
    right = Math.max(right, x);
    bottom = Math.max(bottom, y);
  }
  return { x: left, y: top, width: right - left, height: bottom - top };
}

const upright = ({ x, y, width, height }) => ({
  x: Math.min(x, x + width), y: Math.min(y, y + height), width: Math.abs(width), height: Math.abs(height),
});

// ------------------------------------------------------------------------ text

export const fontSizeOf = (shape) => Math.min(400, Math.max(4, number(shape.fontSize, 20)));
export const fontOf = (size) => `${size}px ${FONT}`;
const linesOf = (shape) => String(shape.text ?? '').slice(0, 20_000).split('\n');

let ruler = null;

function textBox(shape, at) {
  ruler ??= document.createElement('canvas').getContext('2d');
  const size = fontSizeOf(shape);
  ruler.font = fontOf(size);
  const lines = linesOf(shape);
  const width = Math.max(...lines.map((line) => ruler.measureText(line).width));
  return { ...at, width, height: lines.length * size * LINE_HEIGHT };
}

// --------------------------------------------------------------------- questions

/** The box around a shape, its stroke and rotation included. @returns {Box} */
export function boxAround(shape) {
  const { box, angle } = look(shape);
  const half = number(shape.strokeWidth, 2) / 2 + (shape.type === 'arrow' ? 14 : 0);
  if (!angle) return { x: box.x - half, y: box.y - half, width: box.width + 2 * half, height: box.height + 2 * half };
  const reach = Math.hypot(box.width, box.height) / 2 + half;
  return { x: box.x + box.width / 2 - reach, y: box.y + box.height / 2 - reach, width: 2 * reach, height: 2 * reach };
}

export const overlap = (a, b) => a.x <= b.x + b.width && b.x <= a.x + a.width && a.y <= b.y + b.height && b.y <= a.y + a.height;

/** The box around all shapes, or null. @returns {Box|null} */
export function boxAroundAll(shapes) {
  if (shapes.length === 0) return null;
  const corners = shapes.map(boxAround).flatMap(({ x, y, width, height }) => [[x, y], [x + width, y + height]]);
  return boxOf(corners, { x: 0, y: 0 });
}

/**
 * The topmost shape at a place: first one whose line is there, else the
 * smallest one whose inside is.
 */
export function shapeAt(ctx, sorted, x, y, tolerance) {
  const near = sorted.filter((shape) => overlap(boxAround(shape), { x: x - tolerance, y: y - tolerance, width: 2 * tolerance, height: 2 * tolerance }));
  const line = near.findLast((shape) => isOnLine(ctx, shape, x, y, tolerance));
  if (line) return line;
  const area = (shape) => look(shape).box.width * look(shape).box.height;
  return near.filter((shape) => isInside(ctx, shape, x, y)).sort((a, b) => area(a) - area(b))[0];
}

export function isOnLine(ctx, shape, x, y, tolerance) {
  const { path, box, angle } = look(shape);
  [x, y] = unrotate(box, angle, x, y);
  if (!path) return inBox(box, x, y);
  ctx.lineWidth = number(shape.strokeWidth, 2) + 2 * tolerance;
  return ctx.isPointInStroke(path, x, y) || (filled(shape) && ctx.isPointInPath(path, x, y));
}

function isInside(ctx, shape, x, y) {
  const { path, box, angle, closed } = look(shape);
  [x, y] = unrotate(box, angle, x, y);
  return closed && (path ? ctx.isPointInPath(path, x, y) : inBox(box, x, y));
}

const inBox = (box, x, y) => x >= box.x && x <= box.x + box.width && y >= box.y && y <= box.y + box.height;

function unrotate(box, angle, x, y) {
  if (!angle) return [x, y];
  const [cx, cy] = [box.x + box.width / 2, box.y + box.height / 2];
  const [dx, dy] = [x - cx, y - cy];
  return [cx + dx * Math.cos(-angle) - dy * Math.sin(-angle), cy + dx * Math.sin(-angle) + dy * Math.cos(-angle)];
}

/**
 * From back to front, the same on every page: shapes made here carry `z` (when
 * they were made); others lie below, the large ones under the small ones.
 */
export function sorted(shapes) {
  const area = (shape) => look(shape).box.width * look(shape).box.height;
  const rank = (shape) => (Number.isFinite(shape.z) ? shape.z : -Infinity);
  const byId = (a, b) => (a.id < b.id ? -1 : 1);
  return [...shapes].sort((a, b) => {
    const [za, zb] = [rank(a), rank(b)];
    if (za !== zb) return za - zb;
    return za === -Infinity ? area(b) - area(a) || byId(a, b) : byId(a, b);
  });
}

// ---------------------------------------------------------------------- drawing

/** Draws one shape; the context is already in the room's coordinates. */
export function draw(ctx, shape) {
  const { path, box, closed, angle } = look(shape);
  ctx.save();
  if (angle) {
    ctx.translate(box.x + box.width / 2, box.y + box.height / 2);
    ctx.rotate(angle);
    ctx.translate(-box.x - box.width / 2, -box.y - box.height / 2);
  }
  ctx.globalAlpha = Math.min(1, Math.max(0.05, number(shape.opacity, 100) / 100));
  const ink = colorOf(shape);
  if (closed && filled(shape) && path) {
    setColor(ctx, 'fillStyle', fillOf(shape));
    ctx.fill(path);
  }
  if (shape.type === 'text') drawText(ctx, shape, box, ink);
  else if (path) drawLine(ctx, shape, path, ink);
  if (shape.type === 'image') drawPlaceholder(ctx, box);
  ctx.restore();
}

function drawLine(ctx, shape, path, ink) {
  setColor(ctx, 'strokeStyle', ink);
  ctx.lineWidth = Math.min(200, Math.max(0.1, number(shape.strokeWidth, 2)));
  ctx.lineCap = ctx.lineJoin = 'round';
  if (shape.strokeStyle === 'dashed') ctx.setLineDash([8, 8]);
  if (shape.strokeStyle === 'dotted') ctx.setLineDash([1, 6]);
  ctx.stroke(path);
}

function drawText(ctx, shape, box, ink) {
  const size = fontSizeOf(shape);
  setColor(ctx, 'fillStyle', ink);
  ctx.font = fontOf(size);
  ctx.textBaseline = 'middle';
  const align = ['center', 'right'].includes(shape.textAlign) ? shape.textAlign : 'left';
  ctx.textAlign = align;
  const x = box.x + { left: 0, center: box.width / 2, right: box.width }[align];
  linesOf(shape).forEach((line, i) => ctx.fillText(line, x, box.y + (i + 0.5) * size * LINE_HEIGHT));
}

/** Pictures are not fetched: a stranger's address would learn who looks at the room. */
function drawPlaceholder(ctx, { x, y, width, height }) {
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(x + width, y + height);
  ctx.moveTo(x + width, y);
  ctx.lineTo(x, y + height);
  ctx.stroke();
}

export const colorOf = (shape) => shape.color ?? shape.strokeColor ?? shape.stroke ?? '#1e1e1e';
const fillOf = (shape) => shape.backgroundColor ?? shape.fill;

function filled(shape) {
  const fill = fillOf(shape);
  return typeof fill === 'string' && fill !== '' && fill !== 'transparent' && fill !== 'none';
}

/** A canvas ignores what is no colour; then it shall be ink, not the last shape's. */
function setColor(ctx, property, color) {
  ctx[property] = '#1e1e1e';
  if (typeof color === 'string') ctx[property] = color;
}

function number(value, otherwise = 0) {
  return Number.isFinite(value) ? clamp(value) : otherwise;
}

const clamp = (value) => Math.min(FAR, Math.max(-FAR, value));

// ----------------------------------------------------------------------- strokes

/** Ramer–Douglas–Peucker: the same stroke with fewer points, off by `tolerance` at most. */
export function simplify(points, tolerance) {
  if (points.length < 3) return points;
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const spans = [[0, points.length - 1]];
  while (spans.length > 0) {
    const [from, to] = spans.pop();
    let worst = tolerance;
    let at = -1;
    for (let i = from + 1; i < to; i++) {
      const off = distance(points[i], points[from], points[to]);
      if (off > worst) [worst, at] = [off, i];
    }
    if (at < 0) continue;
    keep[at] = 1;
    spans.push([from, at], [at, to]);
  }
  return points.filter((_, i) => keep[i]);
}

function distance([x, y], [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy;
  const t = length === 0 ? 0 : Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length));
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

/** At most `most` points of a stroke, evenly picked and in whole numbers: for a signal. */
export function coarse(points, most) {
  const step = Math.max(1, (points.length - 1) / (most - 1));
  const picked = [];
  for (let i = 0; i < points.length - 1; i += step) picked.push(points[Math.floor(i)]);
  picked.push(points.at(-1));
  return picked.map(([x, y]) => [Math.round(x), Math.round(y)]);
}

/** What to change so that the shape lies `dx, dy` further. */
export function movedBy(shape, dx, dy) {
  const patch = { x: round(number(shape.x) + dx), y: round(number(shape.y) + dy) };
  if (Number.isFinite(shape.x2) && !Array.isArray(shape.points)) {
    patch.x2 = round(shape.x2 + dx);
    patch.y2 = round(number(shape.y2) + dy);
  }
  return patch;
}

export const round = (value) => Math.round(value * 10) / 10;
