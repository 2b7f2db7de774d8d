/**
 * The paper: two canvases (the room's shapes; what is being done right now), a
 * camera, and the gestures that move it. Knows nothing of the network.
 */
import { boxAround, boxAroundAll, draw, overlap, shapeAt, sorted } from './shapes.js';

const LEAST_SCALE = 0.05;
const MOST_SCALE = 8;
/** A shape larger or further away than this doesn't decide what "everything" is. */
const SANE = 50_000;

export class View {
  camera = { x: 0, y: 0, scale: 1 };
  /** What to show; set by the page, read at the next frame. @type {() => object[]} */
  shapes = () => [];
  /** Draws what lies above the shapes, in the room's coordinates. @type {(ctx: CanvasRenderingContext2D) => void} */
  overlay = () => {};
  /** Frames of the lower canvas so far; tests wait for the next one. */
  frames = 0;

  #scene;
  #ink;
  #order = [];
  #dirty = { order: true, scene: true, ink: true };
  #frame = 0;
  #ratio = 1;
  #onCamera = [];

  /**
   * @param {HTMLCanvasElement} scene
   * @param {HTMLCanvasElement} ink above the scene, takes the pointer
   */
  constructor(scene, ink) {
    this.#scene = scene.getContext('2d');
    this.#ink = ink.getContext('2d');
    new ResizeObserver(() => this.#resize()).observe(ink);
    this.#resize();
  }

  get size() {
    const { clientWidth: width, clientHeight: height } = this.#ink.canvas;
    return { width, height };
  }

  /** The shapes changed. */
  changed() {
    this.#dirty.order = true;
    this.#request('scene');
  }

  /** Only what is above the shapes changed. */
  touched() {
    this.#request('ink');
  }

  onCamera(listener) {
    this.#onCamera.push(listener);
  }

  toRoom(screenX, screenY) {
    const { x, y, scale } = this.camera;
    return { x: screenX / scale + x, y: screenY / scale + y };
  }

  toScreen(roomX, roomY) {
    const { x, y, scale } = this.camera;
    return { x: (roomX - x) * scale, y: (roomY - y) * scale };
  }

  pan(dx, dy) {
    const { x, y, scale } = this.camera;
    this.#look({ x: x - dx / scale, y: y - dy / scale, scale });
  }

  /** Zooms by a factor around a place on the screen. */
  zoom(factor, screenX, screenY) {
    const before = this.toRoom(screenX, screenY);
    const scale = Math.min(MOST_SCALE, Math.max(LEAST_SCALE, this.camera.scale * factor));
    this.#look({ scale, x: before.x - screenX / scale, y: before.y - screenY / scale });
  }

  zoomCentre(factor) {
    const { width, height } = this.size;
    this.zoom(factor, width / 2, height / 2);
  }

  home() {
    this.#look({ x: 0, y: 0, scale: 1 });
  }

  /** Brings all shapes into view, never larger than life. */
  fit() {
    const box = this.#everything();
    if (!box) return this.home();
    const { width, height } = this.size;
    const [marginX, marginY] = [Math.min(60, width / 10), Math.min(110, height / 6)];
    const scale = Math.max(LEAST_SCALE, Math.min(1, (width - 2 * marginX) / box.width, (height - 2 * marginY) / box.height));
    return this.#look({ scale, x: box.x + box.width / 2 - width / 2 / scale, y: box.y + box.height / 2 - height / 2 / scale });
  }

  /** Whether every shape is on the screen now. */
  showsAll() {
    const box = this.#everything();
    const from = this.toRoom(0, 0);
    const to = this.toRoom(this.size.width, this.size.height);
    return !box || (box.x >= from.x && box.y >= from.y && box.x + box.width <= to.x && box.y + box.height <= to.y);
  }

  /** The topmost shape under a place of the room. */
  at({ x, y }, tolerancePx = 6) {
    this.#arrange();
    this.#ink.save();
    this.#ink.setTransform(1, 0, 0, 1, 0, 0);
    const found = shapeAt(this.#ink, this.#order, x, y, tolerancePx / this.camera.scale);
    this.#ink.restore();
    return found;
  }

  #everything() {
    const sane = ({ x, y, width, height }) => Math.max(Math.abs(x), Math.abs(y), width, height) < SANE;
    return boxAroundAll(this.shapes().filter((shape) => sane(boxAround(shape))));
  }

  #look(camera) {
    this.camera = camera;
    for (const listener of this.#onCamera) listener(camera);
    this.#request('scene');
  }

  #request(what) {
    this.#dirty[what] = true;
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  #arrange() {
    if (!this.#dirty.order) return;
    this.#order = sorted(this.shapes());
    this.#dirty.order = false;
  }

  #paint() {
    this.#frame = 0;
    this.#arrange();
    if (this.#dirty.scene) {
      const visible = { ...this.toRoom(0, 0), width: this.size.width / this.camera.scale, height: this.size.height / this.camera.scale };
      this.#begin(this.#scene);
      for (const shape of this.#order) if (overlap(boxAround(shape), visible)) draw(this.#scene, shape);
      this.frames += 1;
    }
    this.#begin(this.#ink);
    this.overlay(this.#ink);
    this.#dirty.scene = this.#dirty.ink = false;
  }

  #begin(ctx) {
    const { x, y, scale } = this.camera;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, ctx.canvas.width, ctx.canvas.height);
    const zoom = scale * this.#ratio;
    ctx.setTransform(zoom, 0, 0, zoom, -x * zoom, -y * zoom);
  }

  #resize() {
    this.#ratio = Math.min(3, globalThis.devicePixelRatio || 1);
    const { width, height } = this.size;
    for (const { canvas } of [this.#scene, this.#ink]) {
      canvas.width = Math.round(width * this.#ratio);
      canvas.height = Math.round(height * this.#ratio);
    }
    this.#request('scene');
  }
}

/**
 * Turns pointers into drawing and looking around: one finger, pen or left
 * button goes to the tool; two fingers, the middle button, a held space bar or
 * the wheel move the camera.
 * @param {HTMLElement} element
 * @param {View} view
 * @param {{down, move, up, cancel, hover}} hand what the tool does; places are in the room's coordinates
 * @param {() => boolean} panning whether the hand tool or the space bar is on
 */
export function watchPointers(element, view, hand, panning) {
  const pointers = new Map();
  let mode = null; // 'tool' | 'pan' | 'pinch'
  const place = (event) => {
    const { left, top } = element.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };
  const inRoom = (event) => {
    const { x, y } = place(event);
    return view.toRoom(x, y);
  };

  element.addEventListener('pointerdown', (event) => {
    if (event.button > 1) return;
    event.preventDefault();
    element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    if (pointers.size === 2) {
      if (mode === 'tool') hand.cancel();
      mode = 'pinch';
    } else if (pointers.size === 1) {
      mode = event.button === 1 || panning() ? 'pan' : 'tool';
      if (mode === 'tool') hand.down(inRoom(event), event);
    }
  });

  element.addEventListener('pointermove', (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return hand.hover(inRoom(event), event);
    const now = place(event);
    if (mode === 'tool') {
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length > 0 ? all : [event]) hand.move(inRoom(each), event);
    } else if (mode === 'pan') {
      view.pan(now.x - before.x, now.y - before.y);
    } else if (mode === 'pinch') {
      pinch(before, now, [...pointers].find(([id]) => id !== event.pointerId)?.[1]);
    }
    pointers.set(event.pointerId, now);
    return undefined;
  });

  const pinch = (before, now, other) => {
    if (!other) return;
    const spread = (p) => Math.max(1, Math.hypot(p.x - other.x, p.y - other.y));
    view.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
    view.zoom(spread(now) / spread(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
  };

  const end = (event, cancelled) => {
    if (!pointers.delete(event.pointerId)) return;
    if (mode === 'tool') cancelled ? hand.cancel() : hand.up(inRoom(event), event);
    if (mode !== 'pinch' || pointers.size === 0) mode = null;
  };
  element.addEventListener('pointerup', (event) => end(event, false));
  element.addEventListener('pointercancel', (event) => end(event, true));
  element.addEventListener('contextmenu', (event) => event.preventDefault());

  element.addEventListener('wheel', (event) => {
    event.preventDefault();
    const { x, y } = place(event);
    const unit = event.deltaMode === 1 ? 16 : 1;
    if (event.ctrlKey || event.metaKey) view.zoom(Math.exp(-event.deltaY * unit * 0.01), x, y);
    else view.pan(-event.deltaX * unit, -event.deltaY * unit);
  }, { passive: false });
}
