// The whiteboard in a real browser, against a whole cluster.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';

import { Cluster, Person, openBrowser } from './world.js';

let cluster;
let browser;
let present = [];

before(async () => {
  cluster = await Cluster.start();
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  await cluster?.stop();
});

afterEach(async (t) => {
  cluster.thaw();
  for (const person of present.splice(0)) await person.leaves();
});

async function enters(url, slug, name, options) {
  const person = await Person.enters(browser, url, slug, name, options);
  present.push(person);
  return person;
}

const zigzag = (x, y) => Array.from({ length: 30 }, (_, i) => [x + i * 8, y + (i % 6) * 12]);

test('what one draws on one node the other sees on another, to the pixel', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  const bob = await enters(cluster.url(1), slug, 'Bob');
  assert.notEqual(await ada.node(), await bob.node());

  await ada.draws('pen', ...zigzag(120, 150));
  await ada.page.getByRole('radio', { name: 'Red' }).click();
  await ada.draws('rect', [150, 300], [200, 330], [330, 420]);
  await bob.page.getByRole('radio', { name: 'Blue' }).click();
  await bob.draws('circle', [450, 300], [500, 350], [570, 420]);
  await bob.draws('line', [340, 360], [400, 362], [445, 361]);
  await bob.draws('arrow', [600, 200], [650, 240], [720, 260]);
  await ada.writes('Grüße, 世界', [460, 180]);
  await ada.mark('Saved');
  await bob.mark('Saved');
  const seq = Math.max(await ada.seq(), await bob.seq());
  assert.equal(seq, 6);
  await ada.reaches(seq);
  await bob.reaches(seq);

  assert.deepEqual(await bob.shapes(), await ada.shapes());
  assert.deepEqual(Object.values(await ada.shapes()).map(({ type }) => type).sort(), ['arrow', 'circle', 'line', 'pencil', 'rect', 'text']);
  assert.equal(await bob.pixels(), await ada.pixels());
  assert.ok(await ada.inked() > 2_000);

  await bob.page.mouse.move(640, 420);
  await ada.page.locator('.cursor span', { hasText: 'Bob' }).waitFor();
  await ada.picture('two-nodes-ada');
  await bob.picture('two-nodes-bob');
  await ada.isSound();
  await bob.isSound();
});

test('a stroke is seen by others while it is drawn', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  const bob = await enters(cluster.url(2), slug, 'Bob');
  await ada.page.mouse.move(100, 200);
  await ada.page.mouse.down();
  for (const point of zigzag(100, 200)) await ada.page.mouse.move(...point);
  // Nothing is in the log yet, but Bob's upper canvas has ink.
  await bob.page.waitForFunction(() => {
    const { width, height } = document.getElementById('ink');
    return document.getElementById('ink').getContext('2d').getImageData(0, 0, width, height).data.some((value) => value > 0);
  });
  assert.equal(await bob.seq(), 0);
  await ada.page.mouse.up();
  await bob.reaches(1);
  assert.deepEqual(await bob.shapes(), await ada.shapes());
});

test('the page says "not saved" while the primary is frozen, and "saved" only when it is', async () => {
  const { slug, room } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  const bob = await enters(cluster.url(1), slug, 'Bob');
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  await ada.mark('Saved');
  cluster.freezePrimaryOf(room);
  await ada.draws('circle', [300, 100], [350, 150], [400, 200]);
  await ada.draws('pen', ...zigzag(120, 300));
  await ada.mark('Not saved');
  assert.equal((await ada.ids()).length, 3, 'the work stays on the page');
  assert.equal((await bob.ids()).length, 1, 'nobody is shown what is not committed');
  await ada.picture('frozen-primary');
  cluster.thaw();
  await ada.mark('Saved');
  await bob.reaches(3);
  assert.deepEqual(await bob.shapes(), await ada.shapes());
  assert.equal(await ada.seq(), 3, 'every operation had one effect');
  await ada.picture('thawed-primary');
  await ada.isSound();
  await bob.isSound();
});

test('a reload loses no unsaved work', async () => {
  const { slug, room } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  await ada.mark('Saved');
  cluster.freezePrimaryOf(room);
  await ada.draws('circle', [300, 100], [350, 150], [400, 200]);
  await ada.mark('Not saved');
  const drawn = await ada.shapes();
  await ada.page.reload();
  cluster.thaw();
  await ada.isLive();
  await ada.mark('Saved');
  await ada.reaches(2);
  assert.deepEqual(await ada.shapes(), drawn);
  assert.equal(await ada.seq(), 2);
  assert.equal(await ada.page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('roomgate.outbox')).length), 0);
  await ada.isSound();
});

test('when its node is killed the page goes on at another and misses nothing', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.facts.lb, slug, 'Ada');
  const killed = await ada.node();
  const other = cluster.facts.nodes.findIndex(({ name }) => name !== killed);
  const bob = await enters(cluster.url(other), slug, 'Bob');
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  await bob.reaches(1);

  cluster.killNode(killed);
  await bob.draws('circle', [300, 100], [350, 150], [400, 200]);
  await ada.draws('line', [100, 300], [200, 310], [300, 320]);
  await bob.draws('pen', ...zigzag(400, 300));
  await ada.page.waitForFunction(() => whiteboard.client.connections > 1 && whiteboard.room.state === 'live');
  await ada.mark('Saved');
  await bob.mark('Saved');
  await ada.reaches(4);
  await bob.reaches(4);
  assert.deepEqual(await ada.shapes(), await bob.shapes());
  assert.equal((await ada.ids()).length, 4);
  assert.equal(await ada.pixels(), await bob.pixels());
  await ada.isSound();
  await bob.isSound();
  await ada.picture('after-node-kill');
  await cluster.whole();
});

test('drawing goes on while Redis is away, and once it is back, and while a node dies', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.facts.lb, slug, 'Ada');
  const killed = await ada.node();
  const other = cluster.facts.nodes.findIndex(({ name }) => name !== killed);
  const bob = await enters(cluster.url(other), slug, 'Bob');
  await ada.notesInterruptions();
  await bob.notesInterruptions();

  await cluster.freezeRedis();
  let seq = 0;
  const late = [];
  for (const [who, whom, x] of [[ada, bob, 100], [bob, ada, 200], [ada, bob, 300], [bob, ada, 400]]) {
    await who.draws('rect', [x, 100], [x + 20, 120], [x + 60, 160]);
    await who.mark('Saved');
    const saved = Date.now();
    await whom.reaches(++seq);
    late.push(Date.now() - saved);
  }
  console.log(`seen so long after it was saved, without Redis: ${late.join(', ')} ms`);
  assert.ok(Math.max(...late) < 5_000, `${late} ms`);
  assert.deepEqual(await ada.shapes(), await bob.shapes());
  await ada.picture('without-redis');

  await cluster.killRedis();
  // Strokes under way go by Redis only.
  await ada.page.mouse.move(100, 300);
  await ada.page.mouse.down();
  for (const point of zigzag(100, 300)) await ada.page.mouse.move(...point);
  await bob.page.waitForFunction(() => {
    const { width, height } = document.getElementById('ink');
    return document.getElementById('ink').getContext('2d').getImageData(0, 0, width, height).data.some((value) => value > 0);
  });
  await ada.page.mouse.up();
  await bob.reaches(++seq);
  assert.deepEqual([await ada.interruptions(), await bob.interruptions()], [[1], [1]], 'no page was ever cut off');

  const drawn = { ada: [], bob: [] };
  const draws = async (person, ids, y) => {
    for (let i = 0; i < 8; i++) ids.push(await person.draws('line', [100 + i * 60, y], [120 + i * 60, y + 10], [140 + i * 60, y]));
  };
  await Promise.all([draws(ada, drawn.ada, 420), draws(bob, drawn.bob, 480), bob.reaches(seq + 3).then(() => cluster.killNode(killed))]);
  await ada.page.waitForFunction(() => whiteboard.client.connections > 1 && whiteboard.room.state === 'live');
  await ada.mark('Saved');
  await bob.mark('Saved');
  seq += 16;
  await ada.reaches(seq);
  await bob.reaches(seq);
  assert.deepEqual([await ada.seq(), await bob.seq()], [seq, seq], 'every operation had one effect');
  const ids = await ada.ids();
  assert.ok([...drawn.ada, ...drawn.bob].every((id) => ids.includes(id)), 'nothing that was drawn is missing');
  assert.deepEqual(await ada.shapes(), await bob.shapes());
  assert.equal(await ada.pixels(), await bob.pixels());
  await ada.isSound();
  await bob.isSound();
  await cluster.whole();
});

test('the room moves to another shard and back while two draw, and nobody notices', async () => {
  const { room, slug } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  const bob = await enters(cluster.url(1), slug, 'Bob');
  await ada.notesInterruptions();
  await bob.notesInterruptions();

  let isMoving = true;
  const draws = async (person, y) => {
    const ids = [];
    while (isMoving || ids.length < 4) {
      const x = 100 + (ids.length % 12) * 60;
      ids.push(await person.draws('line', [x, y], [x + 20, y + 10], [x + 40, y]));
    }
    return ids;
  };
  const moves = async () => {
    const pauses = [];
    for (let i = 0; i < 4; i++) pauses.push((await cluster.moves(room)).pause_ms.max);
    isMoving = false;
    return pauses;
  };
  const [ofAda, ofBob, pauses] = await Promise.all([draws(ada, 120), draws(bob, 480), moves()]);
  console.log(`${ofAda.length + ofBob.length} lines drawn; writers waited ${pauses.join(', ')} ms`);

  const seq = ofAda.length + ofBob.length;
  await ada.reaches(seq);
  await bob.reaches(seq);
  await ada.mark('Saved');
  await bob.mark('Saved');
  assert.deepEqual([await ada.seq(), await bob.seq()], [seq, seq], 'every operation had one effect');
  assert.deepEqual([await ada.interruptions(), await bob.interruptions()], [[1], [1]], 'no page was ever cut off');
  assert.deepEqual(await ada.ids(), [...ofAda, ...ofBob].sort());
  assert.deepEqual(await ada.shapes(), await bob.shapes());
  assert.equal(await ada.pixels(), await bob.pixels());
  await ada.picture('moved');
  await ada.isSound();
  await bob.isSound();
});

test('one moves, recolours, deletes and takes back one\'s own last', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  const bob = await enters(cluster.url(1), slug, 'Bob');
  const mine = await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  const theirs = await bob.draws('rect', [400, 100], [450, 150], [500, 180]);
  await ada.reaches(2);
  const settled = async () => {
    await ada.mark('Saved');
    await bob.reaches(await ada.seq());
    assert.deepEqual(await bob.shapes(), await ada.shapes());
    return (await ada.shapes())[mine];
  };

  await ada.draws('select', [100, 140], [120, 160], [150, 240], [160, 290]);
  const moved = await settled();
  assert.deepEqual([moved.x, moved.y], [160, 250]);
  await ada.page.getByRole('radio', { name: 'Green' }).click();
  assert.equal((await settled()).color, '#2f9e44');
  await ada.page.keyboard.press('Delete');
  assert.equal(await settled(), undefined);

  await ada.page.keyboard.press('Control+z');
  await ada.page.waitForFunction((id) => whiteboard.room.shape(id), mine);
  assert.equal((await settled()).color, '#2f9e44', 'the deleted shape is back as it was');
  await ada.page.keyboard.press('Control+z');
  assert.equal((await settled()).color, '#1e1e1e');
  await ada.page.getByRole('button', { name: 'Undo' }).click();
  assert.deepEqual([(await settled()).x, (await settled()).y], [100, 100]);
  await ada.page.getByRole('button', { name: 'Undo' }).click();
  assert.equal(await settled(), undefined);
  assert.ok(await ada.page.getByRole('button', { name: 'Undo' }).isDisabled());
  assert.deepEqual(await ada.ids(), [theirs], 'what the other drew is not ours to take back');
  await ada.isSound();
  await bob.isSound();
});

test('the eraser deletes what it touches', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  await ada.draws('line', [100, 200], [200, 200], [300, 200]);
  const kept = await ada.draws('line', [100, 400], [200, 400], [300, 400]);
  await ada.draws('eraser', [200, 150], [200, 190], [200, 200], [200, 250]);
  await ada.mark('Saved');
  assert.deepEqual(await ada.ids(), [kept]);
});

test('the time slider shows the room as it was, and the way back', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  const blank = await ada.pixels();
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  const afterOne = await ada.pixels();
  await ada.draws('circle', [300, 100], [350, 150], [400, 200]);
  await ada.draws('pen', ...zigzag(120, 300));
  await ada.mark('Saved');
  await ada.reaches(3);
  const now = await ada.pixels();

  await ada.page.getByRole('button', { name: 'History' }).click();
  await ada.page.locator('#when-text', { hasText: '3 of 3' }).waitFor();
  const slider = ada.page.getByRole('slider');
  await slider.fill('1');
  assert.equal(await ada.pixels(), afterOne);
  await ada.picture('time-slider');
  await slider.fill('0');
  assert.equal(await ada.pixels(), blank);
  assert.ok(!(await ada.page.getByRole('toolbar').isVisible()), 'the past can\'t be drawn on');
  await ada.page.getByRole('button', { name: 'Play' }).click();
  await ada.page.locator('#when-text', { hasText: '3 of 3' }).waitFor();
  await ada.page.getByRole('button', { name: 'Back to now' }).click();
  assert.equal(await ada.pixels(), now);
  await ada.isSound();
});

test('the past begins where the log still does', async () => {
  const { room, slug } = await cluster.room();
  const put = (n) => ({ op: `op-${n}`, kind: 'shape.put', shape: { id: `s${n % 5}`, type: 'rect', x: 60 * (n % 5), y: 4 * n, width: 40, height: 40 } });
  await cluster.submit(room, Array.from({ length: 50 }, (_, n) => put(n)));
  const head = 50 + await cluster.forgetBeginning(room);
  const put50 = await cluster.submit(room, [{ ...put(50), op: 'later' }]);
  assert.equal(put50.items[0].seq, head + 1);
  const ada = await enters(cluster.url(0), slug, 'Ada');
  await ada.reaches(head + 1);
  const now = await ada.pixels();
  await ada.page.getByRole('button', { name: 'History' }).click();
  await ada.page.locator('#when-text', { hasText: `${head + 1} of ${head + 1}` }).waitFor();
  assert.equal(await ada.pixels(), now, 'what was before is there too');
  const slider = ada.page.getByRole('slider');
  const earliest = Number(await slider.getAttribute('min'));
  assert.ok(earliest > 0 && earliest <= head, `${earliest}`);
  await slider.fill(String(earliest));
  await ada.page.locator('#when-text', { hasText: `${earliest} of ${head + 1}` }).waitFor();
  assert.notEqual(await ada.pixels(), now);
  await ada.isSound();
});

test('one finger draws on a phone, two move the paper, and everything fits', async () => {
  const { slug } = await cluster.room();
  const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
  const ada = await enters(cluster.url(0), slug, 'Ada', phone);
  const bob = await enters(cluster.url(1), slug, 'Bob');
  const cdp = await ada.context.newCDPSession(ada.page);
  const touch = (type, ...points) => cdp.send('Input.dispatchTouchEvent', { type, touchPoints: points.map(([x, y], id) => ({ x, y, id })) });

  await touch('touchStart', [60, 300]);
  for (let i = 1; i <= 20; i++) await touch('touchMove', [60 + i * 12, 300 + (i % 5) * 14]);
  await touch('touchEnd');
  await ada.mark('Saved');
  await bob.reaches(1);
  assert.deepEqual(await bob.shapes(), await ada.shapes());

  await touch('touchStart', [150, 400]);
  await touch('touchStart', [150, 400], [250, 400]);
  for (let i = 1; i <= 10; i++) await touch('touchMove', [150 - 5 * i, 400], [250 + 5 * i, 400]);
  await touch('touchEnd');
  const { scale } = await ada.page.evaluate(() => whiteboard.view.camera);
  assert.ok(scale > 1.5 && scale < 2.5, `zoomed to ${scale}`);
  assert.equal((await ada.ids()).length, 1, 'a pinch draws nothing');

  const outside = await ada.page.evaluate(() => [...document.querySelectorAll('button')]
    .filter((button) => button.checkVisibility({ visibilityProperty: true }))
    .filter((button) => {
      const { left, top, right, bottom } = button.getBoundingClientRect();
      return left < 0 || top < 0 || right > innerWidth || bottom > innerHeight;
    }).map((button) => button.id || button.title));
  assert.deepEqual(outside, []);
  assert.equal(await ada.page.evaluate(() => document.documentElement.scrollWidth), 390);
  await ada.picture('phone');
  await ada.isSound();
});

test('two windows of one person share the account, not each other\'s unsaved marks', async () => {
  const { slug, room } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada');
  const again = await ada.opens(`${cluster.url(0)}/?room=${slug}`);
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  await again.draws('circle', [300, 100], [350, 150], [400, 200]);
  await ada.reaches(2);
  await again.reaches(2);
  assert.deepEqual(await again.shapes(), await ada.shapes());
  // What one window couldn't save another of the same browser takes up.
  cluster.freezePrimaryOf(room);
  await ada.draws('line', [100, 300], [200, 310], [300, 320]);
  await ada.mark('Not saved');
  await ada.page.close();
  await again.page.reload();
  cluster.thaw();
  await again.isLive();
  await again.reaches(3);
  await again.mark('Saved');
  assert.equal(await again.seq(), 3);
  await again.isSound();
});

test('whoever comes without a room gets one of their own', async () => {
  const ada = await enters(cluster.facts.lb, '', 'Ada');
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  await ada.mark('Saved');
  assert.match(new URL(ada.page.url()).searchParams.get('room'), /^[a-z]+-[a-z]+-[a-z0-9]+$/);
  await ada.page.reload();
  await ada.isLive();
  assert.equal((await ada.ids()).length, 1);
});

test('a browser that keeps nothing may draw all the same', async () => {
  const { slug } = await cluster.room();
  const ada = await enters(cluster.url(0), slug, 'Ada', { storage: false });
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  await ada.mark('Saved');
  await ada.isSound();
});

test('an account signs in, is told what is wrong, and signs out', async () => {
  const { lb, demo } = cluster.facts;
  const context = await browser.newContext();
  present.push({ leaves: () => context.close() });
  const page = await context.newPage();
  await page.goto(`${lb}/?room=${demo.slug}`);
  await page.getByText('I have an account').click();
  await page.getByLabel('E-mail').fill(demo.email);
  const password = page.locator('#password');
  await password.fill('not the password');
  await password.press('Enter');
  await page.locator('#who .problem:not(:empty)').waitFor();
  await password.fill(demo.password);
  await password.press('Enter');
  await page.waitForFunction(() => globalThis.whiteboard?.room.state === 'live');
  await page.getByRole('button', { name: 'Who is here' }).click();
  await page.locator('#people-list li', { hasText: '(you)' }).waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('button', { name: 'Start drawing' }).waitFor();
  assert.equal(await page.evaluate(() => localStorage.getItem('roomgate.session')), null);
});

test('a locked room asks for its password', async () => {
  const { slug } = await cluster.room({ password: 'open sesame' });
  const ada = await enters(cluster.url(0), slug, 'Ada', { outside: true });
  const { page } = ada;
  await page.getByLabel('Room password').fill('wrong guess');
  await page.getByRole('button', { name: 'Enter' }).click();
  await page.getByText('That is not the password.').waitFor();
  await page.getByLabel('Room password').fill('open sesame');
  await page.getByRole('button', { name: 'Enter' }).click();
  await ada.isLive();
  await ada.draws('rect', [100, 100], [150, 150], [200, 180]);
  await ada.mark('Saved');
  await page.reload();
  await ada.isLive();
  await ada.isSound();
});

test('an invite opens its room and then leaves the address', async () => {
  for (const mark of ['#', '&']) {
    const { room, slug } = await cluster.room({ access: 'invite' });
    const code = await cluster.invite(room, 'editor');
    const ada = await enters(cluster.url(0), `${slug}${mark}invite=${code}`, 'Ada');
    assert.equal(await ada.page.evaluate(() => location.href.includes('invite')), false);
    // Only an old link, with the code in the query, shows it to the server, once.
    assert.equal(ada.requests.filter((url) => url.includes(code)).length, mark === '#' ? 0 : 1);
    await ada.page.reload();
    await ada.isLive();
    await ada.isSound();
  }
});

test('a room that does not exist can be made on the spot', async () => {
  const slug = `made-${Date.now().toString(36)}`;
  const ada = await enters(cluster.url(0), slug, 'Ada', { outside: true });
  await ada.page.getByText('There is no such room yet.').waitFor();
  await ada.page.getByRole('button', { name: 'Create' }).click();
  await ada.isLive();
  assert.equal(await ada.page.evaluate(() => whiteboard.room.slug), slug);
});

test('what strangers write is shown, never run', async () => {
  const { slug } = await cluster.room();
  const attack = '<img src=x onerror="globalThis.hacked=1"><script>globalThis.hacked=1</script>';
  const eve = await enters(cluster.url(0), slug, attack.slice(0, 40));
  const ada = await enters(cluster.url(1), slug, 'Ada');
  await eve.writes(attack, [120, 200]);
  await ada.reaches(1);
  await eve.page.mouse.move(300, 300);
  await ada.page.locator('.cursor span', { hasText: '<img' }).waitFor();
  await ada.page.getByRole('button', { name: 'Who is here' }).click();
  await ada.page.locator('#people-list li', { hasText: '<img' }).waitFor();
  for (const { page } of [eve, ada]) {
    assert.equal(await page.evaluate(() => globalThis.hacked), undefined);
    assert.equal(await page.locator('img').count(), 0);
  }
  assert.equal(Object.values(await ada.shapes())[0].text, attack);
  await ada.isSound();
});

test('drawings of another program are shown', async () => {
  const { slug, room } = await cluster.room({ schema: 'open' });
  const common = { strokeColor: '#1971c2', backgroundColor: '#a5d8ff', strokeWidth: 2, angle: 0 };
  const shapes = [
    { id: 'r', type: 'rectangle', x: -900, y: -500, width: 200, height: 120, ...common },
    { id: 'e', type: 'ellipse', x: -650, y: -500, width: 160, height: 120, ...common, angle: 0.4 },
    { id: 'd', type: 'diamond', x: -450, y: -500, width: 120, height: 120, ...common },
    { id: 'a', type: 'arrow', x: -690, y: -440, points: [[0, 0], [30, 5]], ...common },
    { id: 'f', type: 'freedraw', x: -900, y: -300, points: [[0, 0], [40, 30], [90, 10], [160, 60]], ...common, backgroundColor: 'transparent' },
    { id: 't', type: 'text', x: -640, y: -320, width: 120, height: 50, fontSize: 20, text: 'two\nlines', ...common },
    { id: 'odd', type: 7, x: 'NaN', points: [null, ['a', {}], [1, 2]], strokeColor: { a: 1 }, opacity: 'no' },
    { id: 'odder', type: 'circle', radius: -1e300, x: 1e300, text: { toString: 1 } },
  ];
  const { items } = await cluster.submit(room, shapes.map((shape) => ({ op: `op-${shape.id}`, kind: 'shape.add', shape })));
  assert.deepEqual(items.map(({ seq }) => seq), shapes.map((_, i) => i + 1));
  const ada = await enters(cluster.url(2), slug, 'Ada');
  assert.equal((await ada.ids()).length, shapes.length);
  assert.ok(await ada.inked() > 1_000);
  await ada.picture('open-schema');
  await ada.isSound();
});
