/**
 * The whiteboard page: puts the parts together and shows, truthfully, whether
 * the work is saved. What the room is lies in roomgate.js; what shapes look
 * like in shapes.js; the paper in view.js; the hand in tools.js.
 *
 * `?room=` holds a slug or a room's number, `#invite=` an invite's code.
 * Whatever people wrote reaches the document by `textContent` or the canvas.
 */
import { Account, Client, HttpError } from './roomgate.js';
import { askPassword, askRoom, askWho, createRoom, randomSlug, sentence } from './dialogs.js';
import { History } from './history.js';
import { People, listPeople } from './people.js';
import { TOOLS, Tools } from './tools.js';
import { View, watchPointers } from './view.js';

const COLORS = [['Black', '#1e1e1e'], ['Red', '#e03131'], ['Orange', '#f08c00'], ['Green', '#2f9e44'], ['Blue', '#1971c2'], ['Violet', '#9c36b5'], ['Grey', '#868e96']];
const WIDTHS = [['Thin', 2], ['Medium', 4], ['Thick', 10]];
const PING_EVERY_MS = 5_000;
const TOAST_MS = 5_000;
const VISITED_MOST = 30;

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const invite = takeInvite();

const storage = usableStorage();
const account = new Account({ storage });
const client = new Client({ account, storage, pingMs: PING_EVERY_MS });
const view = new View($('scene'), $('ink'));

let room;
let tools;
let people;
let past = null; // the History while the time slider is open
let pastSeq = 0;
let spaceHeld = false;

start();

async function start() {
  if (!account.user) await askWho(account, { storage, where: query.has('room') ? `You are invited to “${query.get('room')}”.` : 'A room of your own is one key away.' });
  if (!query.has('room')) await chooseRoom();
  enter();
}

/**
 * The invite's code in the address. It belongs behind `#`: browsers send that
 * part to no server, so no log and no `Referer` holds it. Older links have it in
 * the query; from there it is moved at once.
 */
function takeInvite() {
  const code = new URLSearchParams(location.hash.slice(1)).get('invite') ?? query.get('invite');
  if (query.has('invite')) {
    query.delete('invite');
    history.replaceState(null, '', `/?${query}#${new URLSearchParams({ invite: code })}`);
  }
  return code;
}

/** Without a room in the address: back to the last one's list, or a new one at once. */
async function chooseRoom() {
  let slug = null;
  if (visited().length > 0) slug = await askRoom(account, { visited: visited() });
  slug ??= (await insist(() => createRoom(account, randomSlug()))).slug;
  query.set('room', slug);
  history.replaceState(null, '', `/?room=${encodeURIComponent(slug)}`);
}

/** Repeats what can only fail for a while. */
async function insist(action) {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof HttpError) || (error.status >= 400 && error.status < 429)) throw error;
      toast(sentence(error));
      await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs ?? 2_000));
    }
  }
}

function enter() {
  const name = query.get('room');
  const ref = /^\d+$/.test(name) ? { room: Number(name) } : { slug: name };
  if (invite) ref.invite = invite;
  room = client.join(ref);
  tools = new Tools({ room, view, host: $('paper'), changed: showTools });
  people = new People(room, view, $('cursors'));
  view.shapes = () => (past ? past.at(pastSeq) : room.shapes());
  view.overlay = (ctx) => {
    if (past) return;
    people.draw(ctx);
    tools.draw(ctx);
  };
  $('room-name').textContent = name;
  watchRoom();
  watchClient();
  watchHand();
  watchKeys();
  watchButtons();
  showTools();
  client.start();
  // For tests and for the curious.
  globalThis.whiteboard = { client, room, tools, view, people, get past() { return past; } };
}

// ------------------------------------------------------------------ the room

function watchRoom() {
  let arrived = false;
  room.on('change', () => {
    if (!past) view.changed();
    showFacts();
  });
  room.on('saved', showSaved);
  room.on('presence', showPeople);
  room.on('reject', ({ code, message }) => toast(REJECTS[code] ?? `Not accepted: ${message ?? code}`));
  room.on('resync', ({ reason }) => reason !== 'below_retention' && toast('The room was restored after a failure. Its very last changes may be gone.'));
  room.on('state', (state) => {
    tools.readOnly = past !== null || room.role === 'viewer';
    $('paper').toggleAttribute('data-readonly', tools.readOnly);
    if (state === 'live') {
      if (!arrived && !view.showsAll()) view.fit();
      arrived = true;
      // The invite made this user a member. A copied address must not hold it.
      if (invite) history.replaceState(null, '', `/?${query}`);
      remember();
      showTools();
    } else if (state === 'refused') {
      refused(room.refusal);
    }
    showSaved();
  });
}

const REJECTS = {
  forbidden: 'You may look here, but not draw.',
  shape_deleted: 'Somebody deleted this shape meanwhile.',
  shape_unknown: 'This shape is gone.',
  room_archived: 'This room was archived: it can’t be changed any more.',
  too_large: 'This is too large to be stored.',
};

async function refused({ code, message }) {
  const name = query.get('room');
  if (code === 'password_required' || code === 'bad_password') {
    const answer = await askPassword(name, code === 'bad_password');
    if (answer) return room.enter(answer);
  }
  const notes = {
    room_unknown: 'There is no such room yet. You can create it.',
    not_found: 'There is no such room yet. You can create it.',
    forbidden: 'You may not enter this room without an invitation.',
    room_archived: 'This room was archived.',
  };
  const unknown = code === 'room_unknown' || code === 'not_found';
  const slug = await askRoom(account, { visited: visited(), here: name, note: notes[code] ?? message, suggest: unknown ? name : '' });
  if (slug === name) return room.enter();
  return slug ? go(slug) : banner('You are not in a room.', 'Rooms', () => refused({ code, message }));
}

function go(slug) {
  location.href = `/?room=${encodeURIComponent(slug)}`;
}

async function remember() {
  showFacts();
  let name = room.slug;
  try {
    name = (await account.request('GET', `/v1/rooms/${room.id}`)).name || room.slug;
  } catch (error) {
    if (!(error instanceof HttpError)) throw error; // the slug will do
  }
  $('room-name').textContent = name;
  document.title = `${name} · Whiteboard`;
  const rest = visited().filter(({ slug }) => slug !== room.slug);
  storage?.setItem('roomgate.visited', JSON.stringify([{ slug: room.slug, name }, ...rest].slice(0, VISITED_MOST)));
}

function visited() {
  try {
    return JSON.parse(storage?.getItem('roomgate.visited')) ?? [];
  } catch {
    return []; // somebody else's entry of that name
  }
}

/** Storage that works, or nothing: some browsers forbid it. */
function usableStorage() {
  try {
    localStorage.setItem('roomgate.probe', '1');
    localStorage.removeItem('roomgate.probe');
    return localStorage;
  } catch {
    return undefined;
  }
}

// ------------------------------------------------------------ the connection

function watchClient() {
  client.on('status', async (status) => {
    showSaved();
    showFacts();
    banner();
    if (status === 'signin') {
      await askWho(account, { storage, where: `Sign in again to go on in “${query.get('room')}”.`, why: room.saved.count > 0 ? 'Your unsaved work is kept in this browser.' : '' });
      client.start();
    } else if (status === 'stopped') {
      banner(STOPPED[client.reason] ?? 'The server ended the connection.', 'Reconnect', () => client.start());
    }
  });
  client.on('latency', showFacts);
  client.on('error', ({ code, message }) => code !== 'rate_limited' && toast(message ?? code));
  addEventListener('online', () => client.nudge());
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && client.nudge());
  addEventListener('beforeunload', (event) => room.saved.state === 'unsaved' && event.preventDefault());
  // "Saving…" turns into "not saved" by time alone, also while nothing is heard.
  setInterval(() => showSaved(), 500);
}

const STOPPED = {
  kicked: 'You were removed from this room.',
  rate_abuse: 'The server found that this page sends too much.',
  protocol_violation: 'The server didn’t understand this page. Reload it.',
};

/** The mark is fed by acknowledgements only. */
function showSaved() {
  const { state, count } = room.saved;
  const live = room.state === 'live';
  let [shown, text, more] = [state, { saved: 'Saved', saving: 'Saving…', unsaved: 'Not saved' }[state], ''];
  if (state === 'unsaved') more = `: ${count} ${count === 1 ? 'change' : 'changes'} waiting${live ? '' : ' · reconnecting…'}`;
  else if (!live) [shown, text, more] = client.connections > 0 ? ['offline', 'Reconnecting…', ' nothing unsaved'] : ['idle', 'Connecting…', ''];
  else if (room.role === 'viewer') text = 'View only';
  if ($('saved').textContent === text + more) return;
  $('saved').dataset.state = shown;
  $('saved').title = { saved: 'The server has stored everything.', unsaved: 'Kept in this browser until the server has stored it.' }[shown] ?? '';
  $('saved-text').textContent = text;
  $('saved-more').textContent = more;
}

function showFacts() {
  const { welcome, latencyMs } = client;
  $('node').textContent = client.status === 'open' ? welcome.node : 'no node';
  $('seq').textContent = room.position.seq > 0 ? `seq ${room.position.seq}` : '';
  $('seq').title = `epoch ${room.position.epoch}`;
  $('latency').textContent = latencyMs === null ? '' : `${latencyMs < 10 ? latencyMs.toFixed(1) : Math.round(latencyMs)} ms`;
  $('latency').title = room.ackMs === null ? 'Round trip to the node' : `Round trip to the node; the last change was on disk after ${Math.round(room.ackMs)} ms`;
}

function showPeople() {
  $('count').textContent = Math.max(1, room.count);
  $('open-people').setAttribute('aria-label', `Who is here: ${Math.max(1, room.count)}`);
  if (client.welcome) listPeople($('people-list'), room, client.welcome);
}

// ------------------------------------------------------------------ the hand

function watchHand() {
  const preview = () => tools.preview;
  const told = (at) => !past && people.tell(at, preview);
  const hand = {
    down: (at, event) => {
      document.activeElement?.blur?.();
      $('people').hidden = true;
      tools.down(at, event);
      told(at);
    },
    move: (at, event) => { tools.move(at, event); told(at); },
    up: (at, event) => { tools.up(at, event); told(at); },
    cancel: () => tools.cancel(),
    hover: (at) => told(at),
  };
  watchPointers($('ink'), view, hand, () => spaceHeld || tools.tool === 'hand' || tools.readOnly);
  $('ink').addEventListener('dblclick', (event) => {
    const shape = view.at(view.toRoom(event.clientX, event.clientY));
    if (tools.tool === 'select' && shape?.type === 'text') tools.edit(shape);
  });
  view.onCamera(({ x, y, scale }) => {
    const grid = 24 * scale < 12 ? 96 * scale : 24 * scale;
    $('paper').style.backgroundSize = `${grid}px ${grid}px`;
    $('paper').style.backgroundPosition = `${-x * scale}px ${-y * scale}px`;
    $('fit').textContent = `${Math.round(scale * 100)} %`;
  });
}

const KEYS = {
  Delete: () => tools.selected && tools.remove(tools.selected),
  Backspace: () => tools.selected && tools.remove(tools.selected),
  Escape: () => (past ? closeTimeline() : tools.selected ? tools.select(null) : tools.cancel()),
  ArrowLeft: (step) => tools.nudge(-step, 0),
  ArrowRight: (step) => tools.nudge(step, 0),
  ArrowUp: (step) => tools.nudge(0, -step),
  ArrowDown: (step) => tools.nudge(0, step),
  '+': () => view.zoomCentre(1.25),
  '=': () => view.zoomCentre(1.25),
  '-': () => view.zoomCentre(0.8),
  0: () => view.fit(),
  y: () => (past ? closeTimeline() : openTimeline()),
};

function watchKeys() {
  const busyElsewhere = (target) => target.closest?.('input, textarea, dialog[open]') || document.querySelector('dialog[open]');
  addEventListener('keydown', (event) => {
    if (busyElsewhere(event.target) || alongToolbar(event)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      if (key !== 'z' || event.shiftKey) return;
      event.preventDefault();
      tools.undo();
    } else if (!event.altKey) {
      const tool = TOOLS.find((each) => each.key === key);
      if (key === ' ' && !event.target.closest?.('button')) spaceHeld = true;
      if (tool && !past) tools.use(tool.name);
      else if (Object.hasOwn(KEYS, key)) KEYS[key](event.shiftKey ? 10 : 1);
    }
  });
  addEventListener('keyup', (event) => event.key === ' ' && (spaceHeld = false));
  addEventListener('blur', () => { spaceHeld = false; });
}

/** In the toolbar the arrow keys go from button to button. */
function alongToolbar({ key, target }) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (!step || !target.closest?.('#toolbar')) return false;
  const buttons = [...$('toolbar').querySelectorAll('button:not(:disabled)')];
  buttons.at((buttons.indexOf(target) + step) % buttons.length).focus();
  return true;
}

// --------------------------------------------------------------- the buttons

function watchButtons() {
  for (const button of $('tools').children) button.onclick = () => tools.use(button.dataset.tool);
  choices($('colors'), COLORS, 'swatch', '--color', (color) => tools.restyle({ color }));
  choices($('widths'), WIDTHS, 'width', '--width', (strokeWidth) => tools.restyle({ strokeWidth }));
  $('undo').onclick = () => tools.undo();
  $('delete').onclick = () => tools.selected && tools.remove(tools.selected);
  $('zoom-in').onclick = () => view.zoomCentre(1.25);
  $('zoom-out').onclick = () => view.zoomCentre(0.8);
  $('fit').onclick = () => view.fit();
  $('share').onclick = share;
  $('open-rooms').onclick = async () => {
    const slug = await askRoom(account, { visited: visited(), here: room.slug });
    if (slug) go(slug);
  };
  $('open-people').onclick = () => {
    $('people').hidden = !$('people').hidden;
    $('open-people').setAttribute('aria-expanded', !$('people').hidden);
    showPeople();
  };
  $('sign-out').onclick = async () => {
    client.stop();
    await account.signOut();
    location.reload();
  };
  $('open-timeline').onclick = () => (past ? closeTimeline() : openTimeline());
  $('close-timeline').onclick = closeTimeline;
  $('when').oninput = () => showPast(Number($('when').value));
  $('play').onclick = () => play($('play').getAttribute('aria-pressed') !== 'true');
}

function choices(group, list, kind, property, choose) {
  group.replaceChildren(...list.map(([label, value]) => {
    const button = document.createElement('button');
    button.className = kind;
    button.title = label;
    button.dataset.value = value;
    button.setAttribute('role', 'radio');
    button.setAttribute('aria-label', label);
    button.style.setProperty(property, typeof value === 'number' ? `${value}px` : value);
    button.onclick = () => choose(value);
    return button;
  }));
}

function showTools() {
  const mark = (group, attribute, value) => {
    for (const button of group.children) button.setAttribute(attribute, (button.dataset.tool ?? button.dataset.value) === String(value));
  };
  mark($('tools'), 'aria-pressed', tools.tool);
  mark($('colors'), 'aria-checked', tools.color);
  mark($('widths'), 'aria-checked', tools.strokeWidth);
  $('undo').disabled = !tools.canUndo || tools.readOnly;
  $('delete').disabled = !tools.selected || tools.readOnly;
  $('paper').dataset.tool = tools.tool;
  view.touched();
}

async function share() {
  const url = `${location.origin}/?room=${encodeURIComponent(room.slug ?? query.get('room'))}`;
  try {
    if (navigator.share && matchMedia('(pointer: coarse)').matches) return await navigator.share({ title: document.title, url });
    await navigator.clipboard.writeText(url);
    return toast('Link copied. Whoever opens it draws with you.');
  } catch (error) {
    if (error.name !== 'AbortError') toast(url); // no clipboard on plain http: show it
    return undefined;
  }
}

// ------------------------------------------------------------------ the past

async function openTimeline() {
  if (!room.id || past) return;
  past = new History(account, room);
  const mine = past;
  pastSeq = Infinity;
  $('timeline').hidden = false;
  $('open-timeline').setAttribute('aria-expanded', true);
  document.body.dataset.time = 'past';
  tools.cancel();
  tools.select(null);
  setReadOnly(true);
  try {
    await past.load(() => past === mine && showPast(pastSeq >= Number($('when').max) ? Infinity : pastSeq));
    $('when').focus();
  } catch (error) {
    if (!(error instanceof HttpError)) throw error;
    toast(`The history can’t be read: ${sentence(error)}`);
    if (past === mine) closeTimeline();
  }
}

function closeTimeline() {
  play(false);
  past?.close();
  past = null;
  $('timeline').hidden = true;
  $('open-timeline').setAttribute('aria-expanded', false);
  delete document.body.dataset.time;
  setReadOnly(room.role === 'viewer');
  view.changed();
}

/** Shows the room after the event `seq`; Infinity: after the last one, whichever that is. */
function showPast(seq) {
  const { first, last } = past;
  const following = seq === Infinity;
  pastSeq = Math.min(seq, last);
  Object.assign($('when'), { min: first - 1, max: last, value: pastSeq });
  const event = past.event(pastSeq);
  const at = event ? new Date(event.at).toLocaleString([], { dateStyle: 'short', timeStyle: 'medium' }) : 'the beginning';
  $('when-text').textContent = `${pastSeq} of ${last} · ${at}`;
  $('when').setAttribute('aria-valuetext', $('when-text').textContent);
  if (following) pastSeq = last;
  view.changed();
}

function play(on) {
  $('play').setAttribute('aria-pressed', on);
  clearInterval(play.timer);
  if (!on) return;
  if (pastSeq >= past.last) showPast(past.first - 1);
  const step = Math.max(1, Math.ceil((past.last - past.first + 1) / 300)); // any room in 12 s
  const everyMs = Math.max(40, Math.min(250, 12_000 / past.events.length));
  play.timer = setInterval(() => {
    showPast(Math.min(past.last, pastSeq + step));
    if (pastSeq >= past.last) play(false);
  }, everyMs);
}

function setReadOnly(on) {
  tools.readOnly = on;
  $('paper').toggleAttribute('data-readonly', on);
  showTools();
}

// ------------------------------------------------------------------ messages

function toast(text) {
  const note = document.createElement('p');
  note.textContent = text;
  $('toasts').append(note);
  while ($('toasts').children.length > 3) $('toasts').firstChild.remove();
  setTimeout(() => note.remove(), TOAST_MS);
}

function banner(text = '', action = '', act = () => {}) {
  $('banner').hidden = !text;
  $('banner-text').textContent = text;
  $('banner-action').textContent = action;
  $('banner-action').onclick = () => {
    $('banner').hidden = true;
    act();
  };
}
