// Opens a page in headless Chromium and prints what the page shows, one event on a line.
//
//   node browser.mjs CHROMIUM URL
//
// It ends with 1 when a WebSocket of the page is refused.
import { createRequire } from 'node:module';

const require = createRequire(process.env.NODE_MODULES_OF + '/');
const { chromium } = require('playwright-core');
const [program, url] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: program,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const page = await browser.newPage();
page.on('pageerror', (error) => console.error('page:', error.message));
page.on('websocket', (socket) => {
  socket.on('socketerror', async (error) => {
    console.error('socket:', error);
    if (!/Unexpected response code/.test(error)) return; // the page comes back by itself
    await browser.close();
    process.exit(1);
  });
});
await page.exposeFunction('tell', (text) => console.log(text));
await page.addInitScript(() => {
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) if (node.nodeName === 'LI') window.tell(node.textContent);
    }
  }).observe(document, { childList: true, subtree: true });
});
await page.goto(url);
