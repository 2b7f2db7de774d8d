/**
 * The questions the page asks: who are you, which room, what is its password.
 * Each returns a promise of the answer. The markup is in index.html.
 */
import { HttpError } from './roomgate.js';

const ADJECTIVES = ['Brave', 'Calm', 'Clever', 'Cosy', 'Gentle', 'Happy', 'Jolly', 'Lively', 'Lucky', 'Merry', 'Quick', 'Quiet', 'Sunny', 'Swift', 'Witty'];
const ANIMALS = ['Badger', 'Beaver', 'Crane', 'Dolphin', 'Falcon', 'Fox', 'Hare', 'Heron', 'Lynx', 'Marten', 'Otter', 'Owl', 'Panda', 'Robin', 'Seal', 'Swan', 'Wren'];
const pick = (list) => list[crypto.getRandomValues(new Uint32Array(1))[0] % list.length];

export const randomName = () => `${pick(ADJECTIVES)} ${pick(ANIMALS)}`;

/** A slug nobody is likely to have taken. */
export function randomSlug() {
  const tail = [...crypto.getRandomValues(new Uint8Array(5))].map((byte) => (byte % 36).toString(36)).join('');
  return `${randomName().toLowerCase().replace(' ', '-')}-${tail}`;
}

const $ = (id) => document.getElementById(id);

/**
 * Signs somebody in: a guest with one key, or an account.
 * @param {import('./roomgate.js').Account} account
 * @param {{where: string, why?: string, storage?: Storage}} more what to say, and what remembers the name
 */
export function askWho(account, { where, why = '', storage }) {
  const dialog = $('who');
  $('who-where').textContent = where;
  $('who-why').textContent = why;
  $('guest-name').value ||= storage?.getItem('roomgate.name') || randomName();
  const actions = {
    guest: () => {
      const name = $('guest-name').value.trim() || randomName();
      storage?.setItem('roomgate.name', name);
      return account.guest(name);
    },
    signin: () => account.signIn($('email').value.trim(), $('password').value),
    signup: () => account.signUp($('email').value.trim(), $('password').value, $('email').value.split('@')[0].slice(0, 40) || 'Me'),
  };
  return ask(dialog, async (action) => actions[action]());
}

/**
 * A room's password.
 * @returns {Promise<{password: string}|null>} null: another room instead
 */
export async function askPassword(room, wrong) {
  $('secret-room').textContent = room;
  $('secret').value = '';
  showProblem($('locked'), wrong ? 'That is not the password.' : '');
  return ask($('locked'), async (action) => (action === 'enter' ? { password: $('secret').value } : null));
}

/**
 * Which room to go to: a visited one, one's own, or a new one.
 * @returns {Promise<string|null>} its slug, or null when closed
 */
export function askRoom(account, { visited, here, note = '', suggest = '' }) {
  $('rooms-note').textContent = note;
  $('new-slug').value = suggest;
  $('new-password').value = '';
  listRooms($('visited'), visited, here);
  account.request('GET', '/v1/rooms?limit=50').then(
    ({ items, incomplete = [] }) => {
      if (incomplete.length && !note) $('rooms-note').textContent = 'Some of your rooms can not be listed right now.';
      const known = new Set(visited.map(({ slug }) => slug));
      listRooms($('visited'), [...visited, ...items.filter(({ slug }) => !known.has(slug))], here);
    },
    () => {}, // the visited ones are enough
  );
  return ask($('rooms'), async (action) => {
    if (action !== 'create') return null;
    const slug = $('new-slug').value.trim() || randomSlug();
    const password = $('new-password').value || undefined;
    const room = await createRoom(account, slug, password);
    return room.slug;
  });
}

export function createRoom(account, name, password) {
  const slug = name.toLowerCase().normalize('NFKD').replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 63);
  const enough = slug.length >= 3 && !/^\d+$/.test(slug) ? slug : `${slug || 'room'}-${randomSlug().slice(-5)}`;
  const key = { 'Idempotency-Key': crypto.getRandomValues(new Uint32Array(4)).join('-') };
  return account.request('POST', '/v1/rooms', { slug: enough, name, ...(password && { password }) }, key);
}

function listRooms(list, rooms, here) {
  list.replaceChildren(...rooms.map(({ slug, name }) => {
    const item = document.createElement('li');
    const link = document.createElement('a');
    link.href = `/?room=${encodeURIComponent(slug)}`;
    link.textContent = name || slug;
    if (slug === here) link.setAttribute('aria-current', 'page');
    item.append(link);
    return item;
  }));
  list.parentElement.hidden = rooms.length === 0;
}

/** Shows a dialog until one of its actions succeeds; failures are shown in it. */
function ask(dialog, act) {
  return new Promise((resolve) => {
    const form = dialog.querySelector('form');
    const busy = (on) => {
      for (const button of form.querySelectorAll('button')) button.disabled = on;
      form.setAttribute('aria-busy', on);
    };
    const done = (value) => {
      form.onsubmit = dialog.onclose = dialog.oncancel = null;
      dialog.close();
      resolve(value);
    };
    form.onsubmit = async (event) => {
      event.preventDefault();
      busy(true);
      showProblem(dialog, '');
      try {
        const value = await act(event.submitter?.value);
        busy(false);
        done(value);
      } catch (error) {
        busy(false);
        if (!(error instanceof HttpError)) throw error;
        showProblem(dialog, sentence(error));
      }
    };
    // The enter key in a part of the form means that part's button, not the form's first.
    for (const part of form.querySelectorAll('details')) {
      part.onkeydown = (event) => {
        if (event.key !== 'Enter' || event.target.tagName !== 'INPUT') return;
        event.preventDefault();
        form.requestSubmit(part.querySelector('button'));
      };
    }
    dialog.oncancel = (event) => dialog.dataset.closable === undefined && event.preventDefault();
    dialog.onclose = () => done(null);
    if (!dialog.open) dialog.showModal();
  });
}

function showProblem(dialog, text) {
  dialog.querySelector('.problem').textContent = text;
}

const SENTENCES = {
  email_taken: 'There is an account with this address already: sign in instead.',
  slug_taken: 'There is a room of this name already. Open it by its address, or take another name.',
  network: 'The server can’t be reached. Try again in a moment.',
};

export function sentence({ code, message }) {
  return SENTENCES[code] ?? message ?? code;
}
