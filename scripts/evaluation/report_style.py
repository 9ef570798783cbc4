"""The fixed parts of the report: its style sheet and the notes on method."""

STYLE = """
:root { --paper: #fbfbfa; --ink: #1d2430; --soft: #5b6675; --line: #dfe3e8; --card: #ffffff; --accent: #3457b2;
  --note: #fff6df; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181f; --ink: #e6eaf0; --soft: #9aa6b5; --line: #2c3541; --card: #1b212a; --accent: #8fb0ff;
    --note: #33301f; }
  figure img { filter: brightness(.92); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 48px 28px 80px; }
h1 { font-size: 2rem; line-height: 1.2; margin: .2em 0 .5em; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6em 0 .8em; padding-top: .9em; border-top: 1px solid var(--line); }
p { max-width: 78ch; }
.eyebrow { margin: 0; color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.12rem; }
.note { background: var(--note); border-left: 3px solid #d9a514; padding: .5em .9em; font-size: .92rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; margin: 1.6em 0 1em; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.7rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.3; }
small { color: var(--soft); font-size: .8em; }
.scroll { overflow-x: auto; margin-bottom: 1.8em; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; color: var(--soft); padding-bottom: .5em; }
th, td { padding: .38em .6em; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; padding-left: .2em; white-space: normal; overflow-wrap: anywhere;
  min-width: 9em; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
tbody th { font-weight: 500; }
tr.run th, tr.run td, tr.group th, tr.group td { font-weight: 650; }
tr.run th { color: var(--accent); }
tr.bound, tr.optimum { color: var(--soft); font-style: italic; }
td small { display: block; font-weight: 400; line-height: 1.25; }
table.facts th, table.facts td { white-space: normal; text-align: left; vertical-align: top; }
table.facts th { width: 38%; font-weight: 500; color: var(--soft); }
figure { margin: 1.2em 0 1.8em; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 8px; padding: 10px; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .5em; max-width: 90ch; }
ul { padding-left: 1.2em; max-width: 84ch; }
li { margin-bottom: .45em; }
@media print { body { background: white; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""

METHOD = """<ul>
<li><strong>J</strong> is a day's cost and penalty for the whole community in dollars: energy at the feeder head,
generators, demand charge on the day's peak, energy missing at midnight, and the penalty for leaving limits. Every
policy plays the same days once, deterministically, from the same stored energy.</li>
<li><strong>Score</strong> = sum(idle - J) / sum(idle - bound) over the same days. 0 is doing nothing, 1 is the
bound.</li>
<li><strong>Certified bound:</strong> a branch-flow relaxation of the day with perfect foresight (second-order cone
program; Baran and Wu 1989; Farivar and Low 2013, doi:10.1109/TPWRS.2013.2255317). It relaxes the power flow, makes
tap ratios continuous and keeps the env's own penalties. What is reported is the dual objective less an allowance
for its rounding, so it holds whether or not the relaxation is exact. A controller that does not know the future
cannot be expected to reach it.</li>
<li><strong>Intervals</strong> of single policies: bootstrap over whole weeks, because neighbouring days resemble
each other; expanded percentiles (Hesterberg 2015, arXiv:1411.5279). They say how much the result depends on which
weeks were played, paired for all policies, not how much on the training seed.</li>
<li><strong>Across seeds:</strong> mean and range below 5 seeds; from 5 the interquartile mean with a stratified
bootstrap interval (Agarwal et al. 2021, arXiv:2108.13264).</li>
<li><strong>An hour violates</strong> if a bus is outside its limits by more than 1e-4 pu, a branch is above 100.01
% of its rating, or the power flow failed. An overload is such a branch.</li>
<li><strong>Time per decision</strong> is that of computing the actions, divided by days and steps; all days are
decided in one batch.</li>
<li><strong>Foresight:</strong> copper-plate, the replayed optimum and mpc with a perfect forecast know the whole
day in advance; every other policy knows the day's prices and what is measured.</li>
</ul>"""
