// The page in a browser: test.mjs CHROMIUM PAGE.html. What a person does with it works, the console is silent, nothing is fetched,
// and no rule of accessibility is broken. Screenshots are left beside the page.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const [browserPath, pagePath] = process.argv.slice(2);
const folder = path.dirname(pagePath);
const url = pathToFileURL(pagePath).href;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await puppeteer.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-gpu"] });

const said = [];
const open = async ({ scheme = "light", script = true, width = 1280 } = {}) => {
  const page = await browser.newPage();
  page.on("console", (message) => said.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => said.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith("file:") && !request.url().startsWith("data:")) said.push(`fetched: ${request.url()}`);
  });
  await page.setJavaScriptEnabled(script);
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(url);
  return page;
};
const tests = [];
const test = (name, body) => tests.push([name, body]);

// Cells of a column of the first table of choices, from the top.
const column = (page, heading) =>
  page.evaluate(
    (heading) => {
      const table = [...document.querySelectorAll("table.data")].find((t) => t.caption.textContent.includes("what a decode step costs"));
      const heads = [...table.tHead.rows[0].cells];
      const at = heads.findIndex((head) => head.querySelector(".name").textContent === heading);
      const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
      return { cells: shown.map((row) => row.cells[at].textContent.trim()), sort: heads[at].getAttribute("aria-sort") };
    },
    heading,
  );
const head = (page, heading) =>
  page.evaluateHandle((heading) => {
    const table = [...document.querySelectorAll("table.data")].find((t) => t.caption.textContent.includes("what a decode step costs"));
    return [...table.querySelectorAll("thead button")].find((button) => button.textContent === heading);
  }, heading);
const rising = (cells) => cells.every((cell, i) => i === 0 || cell === "" || Number(cells[i - 1]) <= Number(cell));

test("a click sorts a column, and another turns it round", async () => {
  const page = await open();
  const before = (await column(page, "time/step")).cells;
  assert(!rising(before), "the table is not sorted by time from the beginning");
  await (await head(page, "time/step")).click();
  const up = await column(page, "time/step");
  assert(rising(up.cells) && up.sort === "ascending", JSON.stringify(up));
  assert.deepEqual([...up.cells].sort(), [...before].sort(), "no row is lost");
  await (await head(page, "time/step")).click();
  const down = await column(page, "time/step");
  assert(rising([...down.cells].reverse()) && down.sort === "descending", JSON.stringify(down));
});

test("the keyboard sorts a column", async () => {
  const page = await open();
  await (await head(page, "energy/step")).focus();
  await page.keyboard.press("Enter");
  const up = await column(page, "energy/step");
  assert(rising(up.cells) && up.sort === "ascending", JSON.stringify(up));
  await page.keyboard.press("Space");
  assert.equal((await column(page, "energy/step")).sort, "descending");
});

test("words filter the rows", async () => {
  const page = await open();
  const input = await page.evaluateHandle(() => {
    const table = [...document.querySelectorAll("table.data")].find((t) => t.caption.textContent.includes("what a decode step costs"));
    return table.closest(".scroll").previousElementSibling.querySelector("input");
  });
  await input.type("quest");
  const { cells } = await column(page, "choice");
  const shown = await input.evaluate((i) => {
    const rows = [...i.closest(".filter").nextElementSibling.querySelector("tbody").rows];
    return rows.map((row) => [!row.hidden, row.textContent.includes("quest")]);
  });
  assert(cells.length > 0 && shown.every(([shown, has]) => shown === has), JSON.stringify(cells));
  assert(shown.some(([shown]) => !shown), "some rows have no such word");
  const status = await input.evaluate((i) => i.closest(".filter").querySelector("[role=status]").textContent);
  assert.match(status, new RegExp(`^${cells.length} of \\d+ rows$`));
  await input.type(" nothing-like-it");
  assert.equal((await column(page, "choice")).cells.length, 0);
});

test("a pointer and the keyboard show the values of a point", async () => {
  const page = await open();
  const points = await page.$$("figure svg .pt");
  assert(points.length > 100, `${points.length}`);
  const tip = () => page.$eval("#tip", (tip) => (tip.hidden ? null : tip.textContent));
  assert.equal(await tip(), null);
  const mark = await points[3].$("path");
  await mark.scrollIntoView();
  await mark.hover();
  assert.match(await tip(), /time per step .*; output error /);
  const first = await points[0].evaluate((point) => point.getAttribute("tabindex"));
  assert.equal(first, "0");
  await points[0].evaluate((point) => point.focus());
  const of = await tip();
  await page.keyboard.press("ArrowRight");
  assert.notEqual(await tip(), of);
  assert.equal(await tip(), await points[1].evaluate((point) => point.getAttribute("aria-label")));
  await page.keyboard.press("Escape");
  assert.equal(await tip(), null);
});

test("without JavaScript tables and figures are there", async () => {
  const page = await open({ script: false });
  const counts = await page.evaluate(() => ({
    tables: document.querySelectorAll("table.data").length,
    figures: document.querySelectorAll("figure svg").length,
    buttons: document.querySelectorAll("button, input").length,
    titles: document.querySelectorAll("svg .pt > title").length,
  }));
  assert(counts.tables >= 6 && counts.figures >= 6 && counts.titles > 100, JSON.stringify(counts));
  assert.equal(counts.buttons, 0, "nothing stands there that does nothing");
});

for (const scheme of ["light", "dark"]) {
  test(`no rule of accessibility is broken (${scheme})`, async () => {
    const page = await open({ scheme });
    await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
    // The page's own rules forbid scripts from elsewhere; this one comes through the debugger.
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    const found = violations.map((v) => `${v.impact} ${v.id}: ${v.help} (${v.nodes.length}): ${v.nodes[0].html.slice(0, 200)}`);
    assert.deepEqual(found, []);
  });
}

test("no figure has texts that overlap or are cut", async () => {
  const page = await open();
  const found = await page.evaluate(() => {
    const out = [];
    for (const svg of document.querySelectorAll("figure svg")) {
      const name = svg.querySelector(":scope > title").textContent.trim();
      const frame = svg.getBoundingClientRect();
      const texts = [...svg.querySelectorAll("text")].map((t) => ({ text: t.textContent.trim(), box: t.getBoundingClientRect() }));
      for (const { text, box } of texts) {
        if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) {
          out.push(`${name}: "${text}" is cut`);
        }
      }
      texts.forEach((a, i) => {
        for (const b of texts.slice(i + 1)) {
          const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
          const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
          if (wide > 2 && high > 4) out.push(`${name}: "${a.text}" over "${b.text}"`);
        }
      });
    }
    return out;
  });
  assert.deepEqual(found, []);
});

test("screenshots: light, dark, narrow, print", async () => {
  for (const scheme of ["light", "dark"]) {
    const page = await open({ scheme });
    await page.screenshot({ path: path.join(folder, `${scheme}.png`), fullPage: true });
    let n = 0;
    for (const part of await page.$$("header, section > h3, figure, .scroll:has(table)")) {
      if (await part.isVisible()) await part.screenshot({ path: path.join(folder, `${scheme}-${String((n += 1)).padStart(2, "0")}.png`) });
    }
  }
  const narrow = await open({ width: 420 });
  const wider = await narrow.evaluate(() => document.documentElement.scrollWidth);
  assert(wider <= 420, `the page is ${wider} px wide on a screen of 420`);
  await narrow.screenshot({ path: path.join(folder, "narrow.png") });
  const page = await open({ scheme: "dark" });
  await page.pdf({ path: path.join(folder, "print.pdf"), format: "A4" });
});

let failed = 0;
for (const [name, body] of tests) {
  try {
    await body();
    assert.deepEqual(said.splice(0), [], "the console is silent and nothing is fetched");
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.message}`);
  }
}
await browser.close();
console.log(`${tests.length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
