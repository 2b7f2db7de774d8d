/**
 * What the hand does to the room: drawing, moving, deleting, writing, and
 * taking back one's own last. Talks to the room only by `submit`.
 */
import { newId } from './roomgate.js';
import { boxAround, coarse, draw, fontOf, isOnLine, movedBy, round, simplify } from './shapes.js';

/** In the toolbar's order; `key` is the shortcut. */
export const TOOLS = [
  { name: 'select', key: 'v' }, { name: 'hand', key: 'h' }, { name: 'pen', key: 'p' }, { name: 'rect', key: 'r' },
  { name: 'circle', key: 'c' }, { name: 'line', key: 'l' }, { name: 'arrow', key: 'a' }, { name: 'text', key: 't' },
  { name: 'eraser', key: 'e' },
];

/** While a shape is dragged, the room hears of it this often. */
const MOVE_EVERY_MS = 80;
/** A stroke longer than this is stored in several shapes: a message is 64 KiB at most. */
const STROKE_POINTS = 2_500;
const UNDO_STEPS = 200;

export class Tools {
  tool = 'pen';
  color = '#1e1e1e';
  strokeWidth = 4;
  /** The id of the selected shape, or null. */
  selected = null;
  /** Set by the page: nothing is changed, e.g. in the past or as a viewer. */
  readOnly = false;

  #room;
  #view;
  #host;
  #changed;
  #draft = null;
  #action = null;
  #undo = [];
  #probe = document.createElement('canvas').getContext('2d');

  /**
   * @param {object} parts
   * @param {import('./roomgate.js').Room} parts.room
   * @param {import('./view.js').View} parts.view
   * @param {HTMLElement} parts.host where the text field is put
   * @param {() => void} parts.changed the tool, selection or undo list changed
   */
  constructor({ room, view, host, changed }) {
    this.#room = room;
    this.#view = view;
    this.#host = host;
    this.#changed = changed;
  }

  use(tool) {
    this.cancel();
    this.tool = tool;
    if (tool !== 'select') this.select(null);
    this.#changed();
  }

  select(id) {
    this.selected = id;
    this.#view.touched();
    this.#changed();
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  /** What is being drawn, for the others' screens: small enough for a signal. */
  get preview() {
    const draft = this.#draft;
    if (!draft?.points) return draft;
    return { ...draft, points: coarse(draft.points, 60) };
  }

  // ------------------------------------------------------- pointer (see watchPointers)

  down(at, event) {
    if (this.readOnly) return;
    this.#action = null;
    if (this.tool === 'select') this.#grab(at, event);
    else if (this.tool === 'eraser') this.#erase(at);
    else if (this.tool === 'text') this.#write(at);
    else this.#begin(at);
  }

  move(at, event) {
    if (this.#draft) this.#shapeDraft(at, event.shiftKey);
    else if (this.#action?.drag) this.#drag(at);
    else if (this.tool === 'eraser' && !this.readOnly) this.#erase(at);
    this.#view.touched();
  }

  up(at, event) {
    if (this.#draft) {
      this.#shapeDraft(at, event.shiftKey);
      this.#finish();
    } else if (this.#action?.drag) {
      this.#drop(at);
    }
    this.#action = null;
    this.#view.touched();
  }

  /** A second finger came, or the tool was changed: as if nothing had been begun. */
  cancel() {
    this.#draft = null;
    if (this.#action?.moved) this.#update(this.#action.id, movedBy(this.#action.before, 0, 0));
    this.#action = null;
    this.#view.touched();
  }

  hover() {}

  // ---------------------------------------------------------------- drawing

  #begin({ x, y }) {
    const base = { id: newId(), x: round(x), y: round(y), color: this.color, strokeWidth: this.strokeWidth, z: Date.now() };
    const by = {
      pen: { ...base, type: 'pencil', x: 0, y: 0, points: [[round(x), round(y)]] },
      rect: { ...base, type: 'rect', width: 0, height: 0 },
      circle: { ...base, type: 'circle', radius: 0 },
      line: { ...base, type: 'line', x2: base.x, y2: base.y },
      arrow: { ...base, type: 'arrow', x2: base.x, y2: base.y },
    };
    this.#draft = by[this.tool] ?? null;
    this.#action = { from: { x, y } };
  }

  #shapeDraft({ x, y }, shift) {
    const { from } = this.#action;
    const [dx, dy] = [x - from.x, y - from.y];
    const draft = { ...this.#draft };
    if (draft.points) draft.points.push([round(x), round(y)]);
    else if (draft.type === 'rect') Object.assign(draft, rectangle(from, dx, dy, shift));
    else if (this.tool === 'circle') this.#round(draft, from, dx, dy, shift);
    else Object.assign(draft, shift ? straight(from, dx, dy) : { x2: round(x), y2: round(y) });
    this.#draft = draft;
  }

  /** From corner to corner; a circle, or with shift an ellipse that fills the box. */
  #round(draft, from, dx, dy, shift) {
    for (const key of ['radius', 'width', 'height']) delete draft[key];
    if (shift) {
      Object.assign(draft, { type: 'ellipse' }, rectangle(from, dx, dy, false));
    } else {
      const side = Math.max(Math.abs(dx), Math.abs(dy)) / 2;
      const centre = { x: round(from.x + side * Math.sign(dx || 1)), y: round(from.y + side * Math.sign(dy || 1)) };
      Object.assign(draft, { type: 'circle', ...centre, radius: round(side) });
    }
  }

  #finish() {
    const draft = this.#draft;
    this.#draft = null;
    if (!draft.points) {
      const { from } = this.#action;
      const moved = draft.radius ?? Math.max(Math.abs(draft.width ?? draft.x2 - from.x), Math.abs(draft.height ?? draft.y2 - from.y));
      if (moved >= 2 / this.#view.camera.scale) this.#add([draft]);
      return;
    }
    const points = simplify(draft.points, 0.4 / this.#view.camera.scale);
    const parts = [];
    for (let from = 0; from === 0 || from < points.length - 1; from += STROKE_POINTS - 1) {
      parts.push({ ...draft, id: from === 0 ? draft.id : newId(), points: points.slice(from, from + STROKE_POINTS) });
    }
    this.#add(parts);
  }

  #add(shapes) {
    for (const shape of shapes) this.#room.submit('shape.add', { shape });
    this.#undoable(() => shapes.forEach((shape) => {
      if (this.#room.shape(shape.id)) this.#room.submit('shape.delete', { shape_id: shape.id });
    }));
  }

  // ----------------------------------------------------------------- moving

  #grab(at) {
    const shape = this.#view.at(at, 8);
    this.select(shape?.id ?? null);
    if (shape) this.#action = { drag: true, id: shape.id, before: shape, from: at, moved: false, sentAt: 0 };
  }

  #drag(at) {
    const { before, from, id, sentAt } = this.#action;
    const [dx, dy] = [at.x - from.x, at.y - from.y];
    if (!this.#action.moved && Math.hypot(dx, dy) < 3 / this.#view.camera.scale) return;
    this.#action.moved = true;
    if (Date.now() - sentAt < MOVE_EVERY_MS) return;
    this.#action.sentAt = Date.now();
    this.#update(id, movedBy(before, dx, dy));
  }

  #drop(at) {
    const { before, from, id, moved } = this.#action;
    if (!moved) return;
    this.#update(id, movedBy(before, at.x - from.x, at.y - from.y));
    this.#undoable(() => this.#update(id, movedBy(before, 0, 0)));
  }

  #update(id, patch) {
    if (this.#room.shape(id)) this.#room.submit('shape.update', { shape_id: id, patch });
  }

  /** Moves the selected shape with the arrow keys. */
  nudge(dx, dy) {
    const shape = this.selected && this.#room.shape(this.selected);
    if (!shape || this.readOnly) return;
    this.#update(shape.id, movedBy(shape, dx, dy));
    this.#undoable(() => this.#update(shape.id, movedBy(shape, 0, 0)));
  }

  /** Gives the selected shape the chosen colour or width. */
  restyle(style) {
    Object.assign(this, style);
    const shape = this.selected && this.#room.shape(this.selected);
    if (shape && !this.readOnly) {
      const before = Object.fromEntries(Object.keys(style).map((key) => [key, shape[key] ?? null]));
      this.#update(shape.id, style);
      this.#undoable(() => this.#update(shape.id, before));
    }
    this.#changed();
  }

  // --------------------------------------------------------------- deleting

  #erase(at) {
    const shape = this.#view.at(at, 8);
    // Rubbing over the inside of a large frame doesn't mean the frame.
    if (shape && isOnLine(this.#probe, shape, at.x, at.y, 10 / this.#view.camera.scale)) this.remove(shape.id);
  }

  remove(id) {
    const shape = this.#room.shape(id);
    if (!shape || this.readOnly) return;
    if (this.selected === id) this.select(null);
    const deleted = this.#room.submit('shape.delete', { shape_id: id });
    this.#undoable(async () => {
      // A deleted shape comes back only for someone who knows its tombstone's version.
      const outcome = await deleted;
      if (outcome.ok) this.#room.submit('shape.put', { shape, base: this.#room.confirmed.get(id)?.version ?? outcome.version });
    });
  }

  // ------------------------------------------------------------------- text

  #write(at) {
    const under = this.#view.at(at, 4);
    this.edit(under?.type === 'text' ? under : { type: 'text', x: round(at.x), y: round(at.y - 12), text: '', color: this.color, fontSize: 14 + 2 * this.strokeWidth });
  }

  /** Opens a field over the paper; a shape without an id is a new one. */
  edit(shape) {
    if (this.readOnly) return;
    const field = document.createElement('textarea');
    const { x, y } = this.#view.toScreen(shape.x, shape.y);
    const size = (shape.fontSize ?? 20) * this.#view.camera.scale;
    field.className = 'writing';
    field.value = shape.text;
    field.setAttribute('aria-label', 'Text; Escape or a click elsewhere ends');
    Object.assign(field.style, { left: `${x}px`, top: `${y}px`, font: fontOf(size), lineHeight: 1.25, color: shape.color, maxWidth: `calc(100vw - ${Math.max(0, x) + 16}px)` });
    const grow = () => {
      field.style.height = field.style.width = '0';
      field.style.height = `${field.scrollHeight}px`;
      field.style.width = `${field.scrollWidth + size}px`;
    };
    field.addEventListener('input', grow);
    field.addEventListener('keydown', (event) => {
      event.stopPropagation();
      if (event.key === 'Escape' || (event.key === 'Enter' && (event.ctrlKey || event.metaKey))) field.blur();
    });
    field.addEventListener('blur', () => {
      field.remove();
      this.#written(shape, field.value.replace(/\s+$/, ''));
    }, { once: true });
    this.#host.append(field);
    grow();
    // Not within the pointerdown: the browser would take the focus away again.
    requestAnimationFrame(() => field.focus());
  }

  #written(shape, text) {
    if (text === shape.text) return;
    if (!shape.id) {
      if (text) this.#add([{ ...shape, id: newId(), text, z: Date.now() }]);
    } else if (!text) {
      this.remove(shape.id);
    } else {
      this.#update(shape.id, { text });
      this.#undoable(() => this.#update(shape.id, { text: shape.text }));
    }
  }

  // ------------------------------------------------------------------- undo

  #undoable(back) {
    this.#undo.push(back);
    if (this.#undo.length > UNDO_STEPS) this.#undo.shift();
    this.#changed();
  }

  /** Takes back one's own last, whatever others did since. */
  undo() {
    if (this.readOnly) return;
    this.#undo.pop()?.();
    this.#changed();
  }

  // ---------------------------------------------------------------- showing

  /** Draws the draft and the selection. */
  draw(ctx) {
    if (this.#draft) draw(ctx, this.#draft);
    const shape = this.selected && this.#room.shape(this.selected);
    if (!shape) return;
    const { x, y, width, height } = boxAround(shape);
    const px = 1 / this.#view.camera.scale;
    ctx.strokeStyle = '#4263eb';
    ctx.lineWidth = 1.5 * px;
    ctx.setLineDash([5 * px, 4 * px]);
    ctx.strokeRect(x - 4 * px, y - 4 * px, width + 8 * px, height + 8 * px);
    ctx.setLineDash([]);
  }
}

function rectangle(from, dx, dy, square) {
  if (square) {
    const side = Math.max(Math.abs(dx), Math.abs(dy));
    [dx, dy] = [side * Math.sign(dx || 1), side * Math.sign(dy || 1)];
  }
  return {
    x: round(Math.min(from.x, from.x + dx)), y: round(Math.min(from.y, from.y + dy)),
    width: round(Math.abs(dx)), height: round(Math.abs(dy)),
  };
}

/** The nearest direction of eight. */
function straight(from, dx, dy) {
  const angle = Math.round(Math.atan2(dy, dx) / (Math.PI / 4)) * (Math.PI / 4);
  const length = Math.hypot(dx, dy);
  return { x2: round(from.x + length * Math.cos(angle)), y2: round(from.y + length * Math.sin(angle)) };
}
