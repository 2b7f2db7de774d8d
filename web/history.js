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
    if (!(await this.#isKept(0, fresh))) after = await this.#begin(seq, fresh);
    for (;;) {
      const page = await this.#get(`events?after=${after}&limit=${PAGE}`, fresh);
      for (const event of page.items) this.#append(event);
      after = this.last;
      progress();
      if (page.items.length === 0 || after >= Math.max(page.head, this.#room.position.seq)) return;
    }
  }

  /** The beginning is gone: looks for the first event that is kept, and for the shapes before it. */
  async #begin(head, fresh) {
    let [gone, kept] = [0, head]; // after the last event there is always nothing
    while (kept - gone > 1) {
      const middle = Math.floor((gone + kept) / 2);
      if (await this.#isKept(middle, fresh)) kept = middle;
      else gone = middle;
    }
    for (let cursor = ''; cursor !== undefined;) {
      const page = await this.#get(`shapes?seq=${kept}&limit=1000${cursor}`, fresh);
      for (const { version, shape } of page.items) this.#base.set(shape.id, { version, shape });
      cursor = page.next_cursor ? `&cursor=${encodeURIComponent(page.next_cursor)}` : undefined;
    }
    this.first = kept + 1;
    return kept;
  }

  /** Whether the log still has everything after the event `seq`. */
  async #isKept(seq, fresh) {
    try {
      await this.#get(`events?after=${seq}&limit=1`, fresh);
      return true;
    } catch (error) {
      if (error.code === 'below_retention') return false;
      throw error;
    }
  }

  #get(path, headers) {
    return this.#account.request('GET', `/v1/rooms/${this.#room.id}/${path}`, undefined, headers);
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
