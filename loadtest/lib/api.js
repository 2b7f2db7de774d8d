/** The HTTP side of the gateway, as one account. */
import http from 'k6/http';
import { sleep } from './sleep.js';

/** An access token is renewed so long before it ends. */
const RENEW_MS = 90_000;
const PATIENCE_MS = 60_000;
const RETRIED = new Set([0, 429, 500, 502, 503, 504]);

/**
 * One request, under its route's name.
 * @returns {Promise<{status: number, json: any, headers: object, ms: number}>} `status` 0 without an answer
 */
export async function call(url, method, path, { body, token, name } = {}) {
  const headers = { 'Content-Type': 'application/json' };
  if (token) headers.Authorization = `Bearer ${token}`;
  const text = body === undefined ? null : JSON.stringify(body);
  const answer = await http.asyncRequest(method, url + path, text, { headers, tags: { name: name ?? path }, timeout: '30s' });
  const { status, timings } = answer;
  return { status, json: parsed(answer.body), headers: answer.headers, ms: timings.duration };
}

/** The same, again and again while the answer is "not now"; throws what else is not good. */
export async function patiently(url, method, path, request = {}) {
  const until = Date.now() + (request.patienceMs ?? PATIENCE_MS);
  for (;;) {
    const answer = await call(url, method, path, request);
    if (answer.status >= 200 && answer.status < 300) return answer;
    const wait = Number(answer.headers['Retry-After'] ?? 1) * 1000;
    if (!RETRIED.has(answer.status) || Date.now() + wait > until) {
      throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.json)}`);
    }
    await sleep(wait);
  }
}

/** How long it is waited for where sign-ups and sign-ins a minute are limited. */
const ENTRY = { patienceMs: 600_000 };
export const signUp = (url, body) => patiently(url, 'POST', '/v1/signup', { body, ...ENTRY });
export const signIn = (url, body) => patiently(url, 'POST', '/v1/signin', { body, ...ENTRY });

/** Somebody who is signed in, in one VU only: a refresh token is good for one use. */
export class Account {
  #url;
  #session;
  #renewing = null;

  /** @param {{email?: string, password?: string, token: string, refresh_token?: string, expires_at?: number}} person */
  constructor(url, person) {
    this.#url = url;
    this.#session = person;
  }

  /** An access token that is good for a while. */
  async token() {
    const { token, refresh_token: refresh, expires_at: expiresAt } = this.#session;
    if (!refresh || expiresAt - Date.now() > RENEW_MS) return token;
    this.#renewing ??= this.#renew().finally(() => { this.#renewing = null; });
    return this.#renewing;
  }

  async #renew() {
    const { email, password, refresh_token: refresh } = this.#session;
    let answer = await call(this.#url, 'POST', '/v1/token/refresh', { body: { refresh_token: refresh } });
    // Used by this person's VU, if this is another one.
    if (answer.status === 401 && password) answer = await signIn(this.#url, { email, password });
    if (answer.status !== 200) throw new Error(`no new token: ${answer.status}`);
    this.#session = { email, password, ...answer.json };
    return answer.json.token;
  }

  async request(method, path, more = {}) {
    return call(this.#url, method, path, { ...more, token: await this.token() });
  }

  async patiently(method, path, more = {}) {
    return patiently(this.#url, method, path, { ...more, token: await this.token() });
  }

  /** All items of a list, page by page. */
  async all(path, more = {}) {
    const items = [];
    let cursor = '';
    do {
      const { json } = await this.patiently('GET', `${path}${path.includes('?') ? '&' : '?'}limit=1000${cursor}`, more);
      items.push(...json.items);
      cursor = json.next_cursor ? `&cursor=${encodeURIComponent(json.next_cursor)}` : null;
    } while (cursor);
    return items;
  }
}

function parsed(body) {
  try {
    return body ? JSON.parse(body) : null;
  } catch {
    return body; // a balancer's own page
  }
}
