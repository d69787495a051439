// Opens a report in Chromium as people do: a wide screen, a telephone, paper; light and dark. Fails when the page asks
// the network for anything, when axe finds fault with it, when the keyboard does not reach what it should, or when
// something sticks out of the screen. Usage: browser.mjs REPORT.html CHROMIUM DIRECTORY-FOR-PICTURES.

import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const modules = createRequire(pathToFileURL(resolve(process.env.NODE_MODULES ?? '.', 'x.js')));
const { chromium } = modules('playwright-core');
const axe = readFileSync(modules.resolve('axe-core/axe.min.js'), 'utf8');

const [page, program, pictures] = process.argv.slice(2);
const address = pathToFileURL(resolve(page)).href;
mkdirSync(pictures, { recursive: true });
const browser = await chromium.launch({ executablePath: program, args: ['--no-sandbox'] });
const faults = [];
const sizes = { desktop: [1280, 800], phone: [375, 812] };

for (const [size, [width, height]] of Object.entries(sizes)) {
  for (const colorScheme of ['light', 'dark']) {
    const at = `${size}, ${colorScheme}`;
    const context = await browser.newContext({ viewport: { width, height }, colorScheme });
    const tab = await context.newPage();
    const asked = [];
    tab.on('request', (request) => asked.push(request.url()));
    tab.on('console', (message) => message.type() === 'error' && faults.push(`${at}: console: ${message.text()}`));
    await tab.goto(address);
    const others = asked.filter((url) => url !== address);
    if (others.length > 0) faults.push(`${at}: it asks for ${others.join(', ')}`);
    await tab.screenshot({ path: join(pictures, `${size}-${colorScheme}.png`) });
    await tab.screenshot({ path: join(pictures, `${size}-${colorScheme}-whole.png`), fullPage: true });

    const wide = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (wide > 0) faults.push(`${at}: ${wide} pixels stick out to the right`);

    // Outside of the page's own policy, which forbids scripts.
    await tab.evaluate(axe);
    const found = await tab.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
    for (const violation of found.violations) {
      faults.push(`${at}: axe: ${violation.id}: ${violation.help}: ${violation.nodes.slice(0, 3).map((node) => node.target).join(' | ')}`);
    }
    if (found.passes.length < 10) faults.push(`${at}: axe looked at too little`);
    await context.close();
  }
}

// By keyboard alone: the first stop skips to the content, links of the contents lead to their sections.
const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
const tab = await context.newPage();
await tab.goto(address);
await tab.keyboard.press('Tab');
const skip = await tab.evaluate(() => document.activeElement?.className);
if (skip !== 'skip') faults.push(`keyboard: the first stop is ${skip}`);
const reached = new Set();
for (let stop = 0; stop < 60; stop += 1) {
  await tab.keyboard.press('Tab');
  reached.add(await tab.evaluate(() => document.activeElement?.getAttribute('href') ?? document.activeElement?.className));
}
const sections = await tab.evaluate(() => [...document.querySelectorAll('section')].map((section) => `#${section.id}`));
for (const section of [...sections, 'scroll']) {
  if (!reached.has(section)) faults.push(`keyboard: ${section} is not reached`);
}
await tab.focus('nav a[href="#verify"]');
await tab.keyboard.press('Enter');
const seen = await tab.evaluate(() => document.querySelector('#verify').getBoundingClientRect().top < innerHeight);
if (!seen) faults.push('keyboard: the contents lead nowhere');
await tab.emulateMedia({ media: 'print' });
await tab.pdf({ path: join(pictures, 'print.pdf'), preferCSSPageSize: true, printBackground: true });
await browser.close();

for (const fault of faults) console.error(`  FAULT  ${fault}`);
if (faults.length > 0) process.exit(1);
console.log('  ok  Chromium: wide and narrow, light and dark, paper; no request, nothing from axe, keyboard');
