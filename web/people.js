/**
 * Who else is here: their cursors, what they are drawing right now, the list.
 * Fed by presence and by signals `{at: [x, y], draft: shape|null}`.
 */
import { draw } from './shapes.js';

/** A cursor that was not heard of for this long is taken away. */
const CURSOR_GONE_MS = 30_000;
/** A finished draft stays until its event arrives, but not longer. */
const DRAFT_GONE_MS = 2_000;
/** Our own place is told at most this often. */
const TELL_EVERY_MS = 60;

const HUES = [4, 28, 142, 172, 204, 228, 268, 322];

/** The same colour for the same person on every page. */
export function hueOf(text) {
  let hash = 0;
  for (const char of text) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return HUES[hash % HUES.length];
}

export class People {
  #room;
  #view;
  #layer;
  #others = new Map(); // session → {node, at, heardAt, draft, draftEndsAt}
  #tellTimer = 0;
  #told = '';
  #place = null;

  /**
   * @param {import('./roomgate.js').Room} room
   * @param {import('./view.js').View} view
   * @param {HTMLElement} layer where the cursors are put
   */
  constructor(room, view, layer) {
    this.#room = room;
    this.#view = view;
    this.#layer = layer;
    room.on('signal', (signal) => this.#heard(signal));
    room.on('presence', () => this.#forgetAbsent());
    view.onCamera(() => this.#placeAll());
    setInterval(() => this.#forgetSilent(), 1_000);
  }

  /** Tells the others where we are and what we are drawing. */
  tell(at, preview) {
    this.#place = { at, preview };
    this.#tellTimer ||= setTimeout(() => this.#send(), TELL_EVERY_MS);
  }

  #send() {
    this.#tellTimer = 0;
    const { at, preview } = this.#place;
    const data = { at: at && [Math.round(at.x), Math.round(at.y)], draft: preview() };
    let text = JSON.stringify(data);
    if (text.length > 1_000) text = JSON.stringify({ ...data, draft: null });
    if (text === this.#told) return;
    this.#told = text;
    this.#room.signal(JSON.parse(text));
  }

  /** Draws what others are drawing. */
  draw(ctx) {
    for (const { draft } of this.#others.values()) {
      if (draft && !this.#room.confirmed.has(draft.id)) draw(ctx, draft);
    }
  }

  /** How many cursors are shown; for tests. */
  get cursors() {
    return this.#others.size;
  }

  #heard({ session, data }) {
    if (data === null || typeof data !== 'object') return;
    const other = this.#others.get(session) ?? this.#appear(session);
    other.heardAt = Date.now();
    if (Array.isArray(data.at) && data.at.every(Number.isFinite) && data.at.length === 2) other.at = data.at;
    if (data.draft && typeof data.draft === 'object') {
      other.draft = data.draft;
      other.draftEndsAt = Infinity;
    } else if (other.draft && other.draftEndsAt === Infinity) {
      other.draftEndsAt = Date.now() + DRAFT_GONE_MS;
    }
    this.#put(other);
    this.#view.touched();
  }

  #appear(session) {
    const member = this.#room.members.get(session);
    const name = member?.name || 'Someone';
    const node = document.createElement('div');
    node.className = 'cursor';
    node.style.setProperty('--hue', hueOf(member?.user ?? session));
    const label = document.createElement('span');
    label.textContent = name.slice(0, 40);
    node.append(label);
    this.#layer.append(node);
    const other = { node, at: null, heardAt: 0, draft: null, draftEndsAt: 0 };
    this.#others.set(session, other);
    return other;
  }

  #put({ node, at }) {
    node.hidden = !at;
    if (!at) return;
    const { x, y } = this.#view.toScreen(...at);
    node.style.transform = `translate(${x}px, ${y}px)`;
  }

  #placeAll() {
    for (const other of this.#others.values()) this.#put(other);
  }

  #forget(session) {
    this.#others.get(session).node.remove();
    this.#others.delete(session);
    this.#view.touched();
  }

  #forgetAbsent() {
    // A signal can overtake the presence that names its sender.
    const now = Date.now();
    for (const [session, { heardAt, node }] of this.#others) {
      const member = this.#room.members.get(session);
      if (member) node.firstChild.textContent = member.name.slice(0, 40);
      else if (now - heardAt > 2_000 || this.#room.state !== 'live') this.#forget(session);
    }
  }

  #forgetSilent() {
    const now = Date.now();
    for (const [session, other] of this.#others) {
      if (other.draft && now > other.draftEndsAt) {
        other.draft = null;
        this.#view.touched();
      }
      const left = !this.#room.members.has(session) && this.#room.count <= 100;
      if (now - other.heardAt > (left ? 2_000 : CURSOR_GONE_MS)) this.#forget(session);
    }
  }
}

/** Fills a list with who is here, oneself first. */
export function listPeople(list, room, me) {
  const seen = new Map([[me.user, { name: me.name, user: me.user, self: true, count: 1 }]]);
  for (const member of room.members.values()) {
    const known = seen.get(member.user);
    if (known) known.count += 1;
    else seen.set(member.user, { ...member, count: 1 });
  }
  list.replaceChildren(...[...seen.values()].map(({ name, user, self, count, role }) => {
    const item = document.createElement('li');
    const badge = document.createElement('span');
    badge.className = 'badge';
    badge.style.setProperty('--hue', hueOf(user));
    badge.textContent = [...(name || '?')][0].toUpperCase();
    const text = document.createElement('span');
    text.textContent = `${name || 'Someone'}${self ? ' (you)' : ''}${count > 1 ? ` × ${count}` : ''}${role === 'viewer' ? ' · looking on' : ''}`;
    item.append(badge, text);
    return item;
  }));
}
