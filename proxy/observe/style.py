"""How the status page looks, and its one script: text, no logic.

Knows: CSS for both themes and any width, what the script fetches.  Knows not: what is
on the page (``page``).  tests/observe/test_colours.py holds the colours to WCAG.
"""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #fff; --text: #1d2125;
  --soft: #5c6570; --line: #dfe3e6; --bad: #c0392b; --good: #1e7e4a; --warn: #9a6700;
  --bar: #c0392b; --bar2: #4f86ad }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171a; --card: #1d2226; --text: #e3e6e8; --soft: #9aa5b1;
    --line: #333b42; --bad: #ff8a7a; --good: #6ccf97; --warn: #e3b341;
    --bar: #e5695a; --bar2: #4d7796 } }
* { box-sizing: border-box }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem;
  padding: 1rem; background: var(--back); color: var(--text); overflow-wrap: anywhere }
a { color: inherit } p { margin: .5rem 0 }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline }
h1 { font-size: 1.3rem; margin: 0 } h2 { font-size: 1rem; margin: 0 0 .5rem }
.state { font-weight: 600 } .good { color: var(--good) } .bad { color: var(--bad) }
.warn { color: var(--warn) } .soft, footer { color: var(--soft) }
.tiles { display: grid; gap: .75rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem 1rem; margin-bottom: .75rem; min-width: 0 }
.tiles .card { margin: 0 } .card b { display: block; font-size: 1.7rem;
  line-height: 1.2; font-variant-numeric: tabular-nums }
.pair { display: grid; gap: 0 .75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)) }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid var(--line) }
.facts th { width: 11rem }
.steps, .last { table-layout: fixed } .steps td:first-child { width: 35% }
.last th:nth-child(1) { width: 9rem } .last th:nth-child(2) { width: 9.5rem }
.last th:nth-child(4) { width: 6rem } .last th:nth-child(5) { width: 17rem }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tr:last-child > * { border-bottom: 0 }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--soft); font-size: 11px }
@media (max-width: 40rem) { svg text { font-size: 22px } .facts th { width: 8rem }
  .steps tr, .last tr { display: block; padding: .35rem 0;
    border-bottom: 1px solid var(--line) }
  .steps td, .last td { border: 0; padding: 0 .5rem 0 0 }
  .steps td, .steps td:first-child { display: block; width: auto }
  .last td { display: inline }
  .last td:nth-child(3) { display: block; font-weight: 600 }
  .last tr:first-child { display: none } }
.r { fill: var(--bar) }
.a { fill: var(--bar2) } .axis { stroke: var(--line) }
form { display: flex; flex-wrap: wrap; gap: .5rem }
input { flex: 1 1 14rem; min-width: 0 } input, button { font: inherit;
  padding: .35rem .6rem; border: 1px solid var(--line); border-radius: .35rem;
  background: var(--back); color: inherit }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 2px }
.key.r { background: var(--bar) } .key.a { background: var(--bar2) }
.note { display: none; position: sticky; top: 0; margin: 0 0 .75rem;
  padding: .5rem 1rem; background: var(--card); border: 1px solid var(--warn);
  border-radius: .5rem }
body.stale .note { display: block } body.stale #live { filter: grayscale(1) }
::placeholder { color: var(--soft); opacity: 1 }
"""

SCRIPT = """
'use strict';
const into = (id, text) => {
  const found = new DOMParser().parseFromString(text, 'text/html').getElementById(id);
  if (!found) throw new Error('no ' + id);
  document.getElementById(id).replaceWith(found);
};
const ask = async (url, id) => {
  const answer = await fetch(url, {headers: {accept: 'text/html'}});
  if (!answer.ok) throw new Error(answer.status);
  into(id, await answer.text());
};
setInterval(() => {
  if (document.hidden) return;
  ask('/', 'live').then(() => document.body.classList.remove('stale'),
    () => document.body.classList.add('stale'));
}, 5000);
document.addEventListener('submit', (event) => {
  event.preventDefault();
  const query = new URLSearchParams(new FormData(event.target));
  ask('/explain?' + query, 'explained').catch(() => event.target.submit());
});
"""

SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""For the policy: no other script runs."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>qmail-backstop</title>
<style>{style}</style>
</head>
<body>
<main>
<p class="note warn" role="status">the service does not answer: these are old
numbers</p>
<div id="live">
{live}
</div>
<section class="card">
<h2>What would RCPT be answered?</h2>
<form action="/explain" method="get">
<input name="address" value="{asked}" placeholder="user@example.org" maxlength="1000"
 aria-label="recipient" autocomplete="off" spellcheck="false" required>
<button>Explain</button>
</form>
{explained}
</section>
</main>
<footer><a href="/metrics">metrics</a> &middot; <a href="/healthz">health</a> &middot;
<a href="/readyz">readiness</a></footer>
<script>{script}</script>
</body>
</html>
"""
