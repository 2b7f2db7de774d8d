/**
 * The world of the browser tests: a cluster of one's own, people with browsers,
 * and faults. Everything waits for what it waits for; nothing sleeps.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const HERE = dirname(fileURLToPath(import.meta.url));
const BINARY = resolve(process.env.ROOMGATE_BIN ?? join(HERE, '../../target/debug/roomgate'));
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
export const OUT = join(HERE, 'out');
const START_MS = 180_000;
export const PATIENCE_MS = 60_000;

const CHROMIUM_FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** `roomgate dev` in a folder of its own. */
export class Cluster {
  #process;
  #folder;
  #log = [];
  #frozen = new Set();
  #exited;

  static async start() {
    mkdirSync(OUT, { recursive: true });
    const cluster = new Cluster();
    try {
      await cluster.#launch();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  async #launch() {
    this.#folder = mkdtempSync(join(tmpdir(), 'roomgate-browser-'));
    const args = ['dev', '--data', join(this.#folder, 'data'), '--port', '0', '--json', '--restart'];
    const env = {
      ...process.env,
      // Every test brings new guests, from one address.
      ROOMGATE__LIMITS__SIGNUPS_PER_MINUTE: '0',
      ROOMGATE__LIMITS__SIGNINS_PER_MINUTE: '0',
      ROOMGATE__LIMITS__USER_SUBMITS_PER_MINUTE: '0',
      // A short room may lose its beginning, where it is told to, and soon.
      ROOMGATE__HISTORY__SNAPSHOT_EVENTS: '20',
      ROOMGATE__HISTORY__SNAPSHOT_INTERVAL_MS: '500',
      ROOMGATE__HISTORY__RETENTION_INTERVAL_MS: '500',
    };
    this.#process = spawn(BINARY, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    createInterface({ input: this.#process.stderr }).on('line', (line) => this.#log.push(line));
    this.#exited = new Promise((ended) => {
      this.#process.once('exit', ended);
      this.#process.once('error', (error) => { this.#log.push(String(error)); ended(); });
    });
    const ready = new Promise((isReady) => {
      createInterface({ input: this.#process.stdout }).on('line', (line) => line === '}' && isReady(true));
    });
    const inTime = AbortSignal.timeout(START_MS);
    const late = new Promise((is) => inTime.addEventListener('abort', () => is(false)));
    if (!(await Promise.race([ready, this.#exited.then(() => false), late]))) {
      throw new Error(`roomgate dev did not come up:\n${this.#log.slice(-60).join('\n')}`);
    }
  }

  /** The content of dev.json now; pids change when something is restarted. */
  get facts() {
    return JSON.parse(readFileSync(join(this.#folder, 'data/dev.json'), 'utf8'));
  }

  /** What the cluster said last; for failing tests. */
  get log() {
    return this.#log.slice(-80).join('\n');
  }

  url(node) {
    return this.facts.nodes[node].url;
  }

  /** A new room, made by the demo user. @returns {Promise<{room: number, slug: string}>} */
  async room(more = {}) {
    const { lb, demo } = this.facts;
    const { token } = await post(`${lb}/v1/signin`, { email: demo.email, password: demo.password });
    const slug = `test-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
    return post(`${lb}/v1/rooms`, { slug, name: slug, ...more }, token);
  }

  /** An invite into a room of the demo user. @returns {Promise<string>} its code */
  async invite(room, role) {
    const { lb, demo } = this.facts;
    const { token } = await post(`${lb}/v1/signin`, { email: demo.email, password: demo.password });
    return (await post(`${lb}/v1/rooms/${room}/invites`, { role }, token)).code;
  }

  /** Submits to a room as the demo user. */
  async submit(room, items) {
    const { lb, demo } = this.facts;
    const { token } = await post(`${lb}/v1/signin`, { email: demo.email, password: demo.password });
    return post(`${lb}/v1/rooms/${room}/events`, { items }, token);
  }

  /**
   * Keeps no events of a room; resolves when its beginning is gone. That needs
   * something after a snapshot, so messages are said meanwhile.
   * @returns {Promise<number>} how many
   */
  async forgetBeginning(room) {
    const { lb, demo } = this.facts;
    const { token } = await post(`${lb}/v1/signin`, { email: demo.email, password: demo.password });
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    const changed = await fetch(`${lb}/v1/rooms/${room}`, { method: 'PATCH', headers, body: '{"retention_ms":1}' });
    assert.equal(changed.status, 200, await changed.text());
    const until = Date.now() + PATIENCE_MS;
    let said = 0;
    while ((await fetch(`${lb}/v1/rooms/${room}/events?after=0&freshness=primary`, { headers })).status !== 410) {
      assert.ok(Date.now() < until, `room ${room} keeps its beginning:\n${this.log}`);
      said += 1;
      await post(`${lb}/v1/rooms/${room}/events`, { items: [{ op: `said-${said}`, kind: 'message', data: said }] }, token);
      await new Promise((again) => setTimeout(again, 250));
    }
    return said;
  }

  /** The shard that has the room, and the room's slot there. */
  #holder(room) {
    const ask = `SELECT slot FROM room JOIN slot_owner USING (slot) WHERE id = ${Number(room)} AND state = 'active'`;
    for (const { name, endpoints } of this.facts.shards) {
      const { admin_dsn: dsn } = endpoints.find(({ role }) => role === 'primary');
      const slot = execFileSync('psql', [dsn, '-Atc', ask], { encoding: 'utf8' }).trim();
      if (slot) return { name, slot };
    }
    throw new Error(`nobody has room ${room}`);
  }

  /** Moves the room's slot to the other shard, as an operator does. @returns {Promise<object>} what was told */
  async moves(room) {
    const { name, slot } = this.#holder(room);
    const to = this.facts.shards.find((shard) => shard.name !== name).name;
    const config = join(this.#folder, 'data/nodes/node-1.toml');
    const { stdout } = await promisify(execFile)(BINARY, ['shards', 'move', '--slots', slot, '--to', to, '--json', '--config', config]);
    assert.equal(this.#holder(room).name, to);
    return JSON.parse(stdout);
  }

  /** Stops the primary of the room's shard in its tracks, with all its children. */
  freezePrimaryOf(room) {
    const primaries = this.facts.shards.map(({ endpoints }) => endpoints.find(({ role }) => role === 'primary'));
    const holds = ({ admin_dsn: dsn }) => execFileSync('psql', [dsn, '-Atc', `SELECT count(*) FROM room WHERE id = ${Number(room)}`], { encoding: 'utf8' }).trim() === '1';
    const { pid } = primaries.find(holds);
    process.kill(pid, 'SIGSTOP'); // first, so that it forks no more
    for (const child of childrenOf(pid)) process.kill(child, 'SIGSTOP');
    this.#frozen.add(pid);
  }

  thaw() {
    for (const pid of this.#frozen) {
      for (const child of childrenOf(pid)) process.kill(child, 'SIGCONT');
      process.kill(pid, 'SIGCONT');
    }
    this.#frozen.clear();
  }

  /** Redis stops in its tracks; resolves when every node has noticed. */
  async freezeRedis() {
    const { pid } = this.facts.redis;
    process.kill(pid, 'SIGSTOP');
    this.#frozen.add(pid);
    await this.#bus(0);
  }

  /** SIGKILL. It comes back by itself, empty; resolves when every node has found it. */
  async killRedis() {
    const { pid } = this.facts.redis;
    process.kill(pid, 'SIGKILL');
    this.#frozen.delete(pid);
    await this.#bus(1);
  }

  async #bus(up) {
    const until = Date.now() + PATIENCE_MS;
    for (const { admin_url: url } of this.facts.nodes) {
      const says = async () => (await (await fetch(`${url}/metrics`)).text()).includes(`\nroomgate_bus_up ${up}\n`);
      while (!(await says())) {
        assert.ok(Date.now() < until, `a node does not see Redis as it is:\n${this.log}`);
        await new Promise((again) => setTimeout(again, 50));
      }
    }
  }

  /** SIGKILL. It comes back by itself, since the cluster runs with --restart. */
  killNode(name) {
    process.kill(this.facts.nodes.find((node) => node.name === name).pid, 'SIGKILL');
  }

  /** Resolves when every node answers again. */
  async whole() {
    const until = Date.now() + PATIENCE_MS;
    for (const { admin_url: url } of this.facts.nodes) {
      while (!(await fetch(`${url}/health/ready`).then(({ ok }) => ok, () => false))) {
        assert.ok(Date.now() < until, `a node did not come back:\n${this.log}`);
        await new Promise((again) => setTimeout(again, 100));
      }
    }
  }

  async stop() {
    this.thaw();
    if (this.#process?.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill('SIGTERM');
      const hard = setTimeout(() => this.#process.kill('SIGKILL'), 30_000);
      await this.#exited;
      clearTimeout(hard);
    }
    if (this.#folder) rmSync(this.#folder, { recursive: true, force: true });
  }
}

function childrenOf(pid) {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
}

async function post(url, body, token) {
  const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
  assert.ok(answer.ok, `${url}: ${answer.status} ${await answer.clone().text()}`);
  return answer.json();
}

/** One Chromium, with an empty profile. */
export function openBrowser() {
  return chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });
}

/** As browsers do for pages that may keep nothing. Runs in the page. */
function forbidStorage() {
  const get = () => { throw new DOMException('Access is denied', 'SecurityError'); };
  Object.defineProperty(globalThis, 'localStorage', { get });
}

/** Somebody with a browser window of their own. */
export class Person {
  /** What went wrong in the page; must stay empty. */
  complaints = [];
  /** What the page asked servers for: addresses as they are sent, without `#…`. */
  requests = [];

  /** Opens the room at a node (or the balancer) and starts drawing as a guest. */
  static async enters(browser, url, slug, name, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1000, height: 700 }, ...options });
    if (options.storage === false) await context.addInitScript(forbidStorage);
    const person = await Person.#at(context, slug ? `${url}/?room=${slug}` : url);
    await person.page.getByLabel('Your name').fill(name);
    await person.page.getByRole('button', { name: 'Start drawing' }).click();
    if (!options.outside) await person.isLive();
    return person;
  }

  static async #at(context, url) {
    const person = new Person();
    person.context = context;
    person.page = await context.newPage();
    person.page.setDefaultTimeout(PATIENCE_MS);
    person.page.on('pageerror', (error) => person.complaints.push(error.stack));
    person.page.on('request', (request) => person.requests.push(request.url().split('#')[0]));
    person.page.on('dialog', (dialog) => dialog.accept());
    await person.page.goto(url);
    return person;
  }

  /** A second window of the same browser. */
  async opens(url) {
    const again = await Person.#at(this.context, url);
    await again.isLive();
    return again;
  }

  async isLive() {
    await this.page.waitForFunction(() => globalThis.whiteboard?.room.state === 'live');
  }

  /** Presses, moves along the points and lets go. */
  async drags(points) {
    const { mouse } = this.page;
    await mouse.move(...points[0]);
    await mouse.down();
    for (const point of points.slice(1)) await mouse.move(...point);
    await mouse.up();
  }

  /** Draws with a tool, and returns the new shape's id. */
  async draws(tool, ...points) {
    await this.page.locator(`button[data-tool="${tool}"]`).click();
    await this.page.evaluate(() => {
      const { room } = whiteboard;
      const { submit } = Object.getPrototypeOf(room);
      globalThis.lastDrawn = undefined; // what arrives from others meanwhile is not ours
      room.submit = (kind, body) => {
        if (kind === 'shape.add') globalThis.lastDrawn = body.shape.id;
        return submit.call(room, kind, body);
      };
    });
    await this.drags(points);
    return this.page.evaluate(() => globalThis.lastDrawn);
  }

  async writes(text, at) {
    await this.page.getByRole('button', { name: 'Text', exact: true }).click();
    await this.page.mouse.click(...at);
    await this.page.locator('.writing:focus').waitFor();
    await this.page.keyboard.insertText(text);
    await this.page.keyboard.press('Escape');
  }

  /** What the page shows, by id. */
  shapes() {
    return this.page.evaluate(() => Object.fromEntries(whiteboard.room.shapes().map((shape) => [shape.id, shape])));
  }

  ids() {
    return this.page.evaluate(() => whiteboard.room.shapes().map(({ id }) => id).sort());
  }

  seq() {
    return this.page.evaluate(() => whiteboard.room.position.seq);
  }

  node() {
    return this.page.evaluate(() => whiteboard.client.welcome.node);
  }

  /** Waits until the log is folded up to there. */
  async reaches(seq) {
    await this.page.waitForFunction((wanted) => whiteboard.room.position.seq >= wanted, seq);
  }

  /** Notes every time that the page is not live, from now on. */
  async notesInterruptions() {
    await this.page.evaluate(() => {
      globalThis.interruptions = [];
      whiteboard.room.on('state', (state) => globalThis.interruptions.push(state));
    });
  }

  interruptions() {
    return this.page.evaluate(() => [...globalThis.interruptions, whiteboard.client.connections]);
  }

  /** Waits until the mark says so, to the reader. */
  async mark(text) {
    await this.page.locator('#saved', { hasText: new RegExp(`^${text}`) }).waitFor();
  }

  /** The paper as pixels, once everything known is painted. */
  async pixels() {
    await this.page.evaluate(() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted))));
    return this.page.evaluate(() => document.getElementById('scene').toDataURL());
  }

  /** How many pixels of the paper carry ink. */
  async inked() {
    await this.pixels();
    return this.page.evaluate(() => {
      const { width, height } = document.getElementById('scene');
      const { data } = document.getElementById('scene').getContext('2d').getImageData(0, 0, width, height);
      let count = 0;
      for (let i = 3; i < data.length; i += 4) if (data[i] > 0) count += 1;
      return count;
    });
  }

  async picture(name) {
    await this.page.screenshot({ path: join(OUT, `${name}.png`) });
  }

  /** The log was followed without a hole or repeat, and nothing threw. */
  async isSound() {
    assert.deepEqual(await this.page.evaluate(() => whiteboard.room.errors), { gaps: 0, repeats: 0, misplaced: 0 });
    assert.deepEqual(this.complaints, []);
  }

  async leaves() {
    await this.context.close();
  }
}
