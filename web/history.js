/**
 * A room's past: every event from the log, and the shapes as they were after
 * any of them. Read page by page over HTTP and folded here.
 */
import { applyEvent } from './roomgate.js';

const PAGE = 500;

export class History {
  /** In order; `events[i].seq === first + i`. */
  events = [];
  /** 1, or higher when the beginning is no longer kept. */
  first = 1;

  #account;
  #room;
  #base = new Map(); // the shapes before `first`
  #marks = new Map(); // index → shapes, so that a look back is a short fold
  #off;

  /**
   * @param {import('./roomgate.js').Account} account
   * @param {import('./roomgate.js').Room} room
   */
  constructor(account, room) {
    this.#account = account;
    this.#room = room;
  }

  get last() {
    return this.first + this.events.length - 1;
  }

  /**
   * Reads the log up to what this page has seen, and follows it from then on.
   * @param {() => void} progress called after every page and for every new event
   */
  async load(progress) {
    let after = 0;
    const { epoch, seq } = this.#room.position;
    const fresh = seq > 0 ? { 'Roomgate-Min-Seq': `${epoch}.${seq}` } : {};
    // What arrives while the pages are read.
    this.#off = this.#room.on('event', (event) => this.#follow(event, progress));
    for (;;) {
      const page = await this.#account.request('GET', `/v1/rooms/${this.#room.id}/events?after=${after}&limit=${PAGE}`, undefined, fresh);
      for (const event of page.items) this.#append(event);
      after = this.last;
      progress();
      if (page.items.length === 0 || after >= Math.max(page.head, this.#room.position.seq)) return;
    }
  }

  close() {
    this.#off?.();
  }

  /** The shapes after the event `seq`. @returns {object[]} */
  at(seq) {
    const upTo = Math.min(this.events.length, Math.max(0, seq - this.first + 1));
    const every = Math.max(200, Math.ceil(this.events.length / 40));
    let index = Math.floor(upTo / every) * every;
    while (index > 0 && !this.#marks.has(index)) index -= every;
    const shapes = new Map(index > 0 ? this.#marks.get(index) : this.#base);
    for (; index < upTo; index++) {
      if (index > 0 && index % every === 0) this.#marks.set(index, new Map(shapes));
      applyEvent(shapes, this.events[index]);
    }
    return [...shapes.values()].map(({ shape }) => shape).filter(Boolean);
  }

  /** The event `seq` itself. */
  event(seq) {
    return this.events[seq - this.first];
  }

  #append(event) {
    if (event.seq === this.last + 1) this.events.push(event);
  }

  #follow(event, progress) {
    if (event.seq !== this.last + 1) return; // its page will bring it
    this.#append(event);
    progress();
  }
}
