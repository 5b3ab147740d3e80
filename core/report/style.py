"""The page's style: plain, readable in the dark and on paper."""

STYLE = """
:root { color-scheme: light dark; --fg: #1c1e21; --dim: #5d6570; --bg: #fcfcfb; --card: #f1f2f3;
  --edge: #d9dcdf; --good: #0a7a4b; --bad: #b3261e;
  --c0: #0067b1; --c1: #c4560c; --c2: #0a8060; --c3: #b0508f; --c4: #8a7000; --c5: #3b93c4; }
@media (prefers-color-scheme: dark) { :root { --fg: #e5e7ea; --dim: #9aa3ad; --bg: #16181b; --card: #202327;
  --edge: #363b41; --good: #4cc38a; --bad: #ff8a80;
  --c0: #6cb6f0; --c1: #f09a5b; --c2: #45c6a0; --c3: #e59ac8; --c4: #d6be4c; --c5: #9fd0ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 74rem; color: var(--fg);
  background: var(--bg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--edge); padding-bottom: .25rem;
  }
 h3 { font-size: 1.05rem; margin: 1.4rem 0 .2rem; } h4 { margin: 1rem 0 .3rem; }
p { max-width: 62rem; margin: .4rem 0; } nav a { margin-right: 1rem; } a { color: var(--c0); }
code, pre { font: 13px/1.45 ui-monospace, monospace; } code { overflow-wrap: anywhere; }
pre { background: var(--card); padding: .8rem; border-radius: 6px; overflow: auto; max-height: 34rem; }
.state { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; background: var(--card);
  margin: .4rem 0; }
.state.open { outline: 2px solid var(--c1); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .5rem 1.5rem; }
.facts dt { color: var(--dim); font-size: .85rem; } .facts dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.chart { margin: 0; max-width: 40rem; } .chart figcaption { font-weight: 600; }
.chart svg { width: 100%; height: auto; display: block; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--dim); } .grid { stroke: var(--edge); fill: none; }
.axis { stroke: var(--dim); fill: none; } .line { fill: none; stroke: currentColor; stroke-width: 1.6; }
.band { fill: currentColor; opacity: .18; } .dot { fill: currentColor; } .reading { fill: transparent; }
.reading:hover { fill: var(--dim); fill-opacity: .18; } .key { font-weight: 400; font-size: .85rem; }
.key::before { content: "\\25ac\\00a0"; } .d1.key::before { content: "\\254d\\254d\\00a0"; }
.d2.key::before { content: "\\2508\\2508\\00a0"; } .d3.key::before { content: "\\254d\\2508\\00a0"; }
.line.d1 { stroke-dasharray: 7 3; } .line.d2 { stroke-dasharray: 2 3; } .line.d3 { stroke-dasharray: 7 3 2 3; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); }
.hit { fill: var(--good); } .miss { fill: var(--bad); } .frame { fill: none; stroke: var(--dim); }
.chart text.light { fill: #fff; }
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr));
  }
.samples.small { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.samples.films { grid-template-columns: 1fr; }
.sample { margin: 0; padding: .7rem; background: var(--card); border-radius: 8px; min-width: 0; }
.sample figcaption { font-size: .85rem; color: var(--dim); overflow-wrap: anywhere; margin-bottom: .35rem; }
.columns { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: .5rem; }
.rows { display: grid; grid-template-columns: 6.5rem minmax(0, 1fr); gap: .35rem .6rem; align-items: center; }
.name { font-size: .8rem; color: var(--dim); } .columns img { width: 100%; } .rows img { max-width: 100%; }
.scenes { margin: .7rem 0 0; } .scene { aspect-ratio: 1; min-width: 0; }
img { display: block; height: auto; } img.exact { image-rendering: pixelated; }
.target circle { fill: transparent; } .target .thumb { display: none; pointer-events: none; }
.target:hover .thumb { display: block; } .target:hover circle { stroke: var(--fg); }
.thumb rect { fill: var(--bg); stroke: var(--fg); }
.neighbours .row { display: grid; grid-template-columns: repeat(6, minmax(0, 7rem)); gap: .8rem; margin: .5rem 0; }
.neighbours .row > div { border-top: 3px solid transparent; padding-top: .25rem; min-width: 0; }
.neighbours .row > .query { border-color: var(--dim); } .neighbours .row > .same { border-color: var(--good); }
.neighbours .row > .different { border-color: var(--bad); } .neighbours img { width: 100%; }
.neighbours .name { display: block; overflow-wrap: anywhere; line-height: 1.25; margin-top: .2rem; }
.legend > span { margin-right: 1.2rem; } .chip { display: inline-block; width: .9em; height: .9em;
  border-radius: 2px;
  margin-right: .4em; vertical-align: -.08em; border: 1px solid var(--dim); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .3rem 0; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--edge);
  vertical-align: top; }
th { color: var(--dim); font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.verdict { font-weight: 600; } .verdict.good { color: var(--good); } .verdict.bad { color: var(--bad); }
.verdicts { padding-left: 1.2rem; margin: .4rem 0; } .about { color: var(--dim); font-size: .85rem; }
.notes { color: var(--dim); font-size: .9rem; }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--c0); }
"""
