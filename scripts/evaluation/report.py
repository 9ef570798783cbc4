"""The report: one HTML file that needs nothing else, neither network nor script.

Data flow: `Comparison`, `Row`s, PNG pictures -> `html_report` -> report.html.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from .compare import Comparison, Row
from .play import PARTS
from .report_style import METHOD, STYLE
from .tables import GRID, MONEY, SCORES, title
from .text import Column, number, seconds, with_content

Pictures = Mapping[str, bytes]
DAY_TITLES = {"typical": "A typical day", "best": "The best day", "worst": "The worst day"}


def html_report(comparison: Comparison, rows: Sequence[Row], pictures: Pictures, days: Mapping[str, int]) -> str:
    """The whole page.

    Args:
        comparison: of the policies.
        rows: its lines.
        pictures: name -> PNG.
        days: label -> position of the days that are drawn.
    """
    heading = f"How good is {comparison.first_run.name}?"
    sections = [_headline(comparison, rows, heading), _tables(comparison, rows)]
    if comparison.reference is not None:
        sections += [_scores(pictures), _gaps(comparison, pictures)]
    sections += [_money(pictures), *_days(comparison, pictures, days)]
    if comparison.reference is not None:
        sections.append(_bound(comparison))
    sections.append(_section("method", "Method", METHOD))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(heading)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(sections)}\n</main></body></html>\n"
    )


def _section(name: str, heading: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(heading)}</h2>\n{content}</section>'


def _headline(comparison: Comparison, rows: Sequence[Row], heading: str) -> str:
    row = next(row for row in rows if row.name == comparison.first_run.name)
    seeds = "".join(_seeds_sentence(group) for group in rows if group.kind == "group")
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in comparison.notes)
    tiles = [("J", f"{row.j_usd:,.2f}", "$/day"), ("hours violating", f"{row.violating_share:.2%}", _of_hours(row))]
    tiles.append(("time per decision", seconds(row.seconds_per_decision), "all microgrids, one step"))
    if comparison.reference is not None:
        gap = f"{number(row.gap_share.value, '.2%')} of the bound"
        tiles.insert(0, ("score", f"{row.score.value:.3f}", _interval_text(row)))
        tiles.insert(1, ("gap to the bound", f"{row.gap_usd.value:.1f}", f"$/day, {gap}"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><small>{escape(unit)}</small></div>"
        for name, value, unit in tiles
    )
    return (
        f'<header id="headline"><p class="eyebrow">{escape(title(comparison))}</p><h1>{escape(heading)}</h1>'
        f'<p class="lead">{_sentence(comparison, row)}{seeds}</p><dl class="tiles">{cells}</dl>{notes}</header>'
    )


def _sentence(comparison: Comparison, row: Row) -> str:
    if (reference := comparison.reference) is None:
        return f"It costs {row.j_usd:,.2f} $/day. No bound exists for this evaluation, so there is no score."
    days = reference.scored
    saved = float((reference.idle_usd - comparison.first_run.j_usd)[days].mean())
    possible = float((reference.idle_usd - reference.bound_usd)[days].mean())
    more_or_less = f"saves {saved:.1f}" if saved >= 0 else f"costs {-saved:.1f}"
    than_idle = "compared with doing nothing" if saved >= 0 else "more than doing nothing"
    return (
        f"It {more_or_less} $/day {than_idle}, where a certified bound proves that no controller, however clairvoyant, "
        f"saves more than {possible:.1f}: a score of <strong>{row.score.value:.3f}</strong>, at most <strong>"
        f"{row.gap_usd.value:.1f} $/day ({number(row.gap_share.value, '.2%')})</strong> above the best possible."
    )


def _seeds_sentence(row: Row) -> str:
    if not math.isfinite(row.score.value):
        return ""
    between = f"[{row.score.low:.3f}, {row.score.high:.3f}]"
    return f" Across {escape(row.name)}: score {row.score.value:.3f} {between}, {escape(row.across)}."


def _interval_text(row: Row) -> str:
    if not math.isfinite(row.score.low):
        return "0 idle, 1 bound"
    return f"95 % interval {row.score.low:.3f} to {row.score.high:.3f}"


def _of_hours(row: Row) -> str:
    return f"{row.violating_h:.0f} h; voltages {row.v_min_pu:.3f} to {row.v_max_pu:.3f} pu"


def _tables(comparison: Comparison, rows: Sequence[Row]) -> str:
    played = [row for row in rows if row.kind != "bound"]
    brackets = ["95 % interval over weeks"] if any(math.isfinite(row.score.low) for row in played) else []
    brackets += sorted({f"in rows of several seeds {row.across}" for row in rows if row.across})
    caption = f"Square brackets: {'; '.join(brackets)}." if brackets else "Means over days."
    parts = "Parts of J in dollars a day, in the order of J."
    grid = "Hours and extreme voltages of all days together, and speed."
    tables = _table(caption, SCORES, rows) + _table(parts, MONEY, played) + _table(grid, GRID, played)
    return _section("table", "All policies", tables)


def _table(caption: str, columns: Sequence[Column], rows: Sequence[Row]) -> str:
    columns = with_content(columns, rows)
    heading = "".join(f'<th scope="col">{escape(name)}</th>' for name, _ in columns)
    lines = "".join(
        f'<tr class="{row.kind}"><th scope="row">{escape(row.name)}</th>'
        + "".join(f"<td>{_cell(cell(row))}</td>" for _, cell in columns)
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr><th scope="col">policy</th>'
        f"{heading}</tr></thead><tbody>\n{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    value, bracket, interval = escape(text).partition(" [")
    return f"{value}<small>{bracket}{interval}</small>" if bracket else value


def _scores(pictures: Pictures) -> str:
    caption = "Lines are 95 % intervals by bootstrap over whole weeks, paired over the same days; diamonds and their "
    caption += "lines summarise seeds. Scores below -1 are drawn at the edge."
    return _section("scores", "Score of every policy", _figure(pictures, "scores", caption))


def _gaps(comparison: Comparison, pictures: Pictures) -> str:
    caption = "A gap of 0 would be a day on which nothing better is possible. Gaps below 0.1 $ are drawn at 0.1 $."
    name = comparison.first_run.name
    each_day = f"{name}, doing nothing and the certified bound on every day; below, the gap of {name}."
    figures = _figure(pictures, "gaps", caption) + _figure(pictures, "days", each_day)
    return _section("gaps", "Distribution of gaps over days", figures)


def _money(pictures: Pictures) -> str:
    caption = "J is the sum of these parts. The penalty is for leaving voltage and current limits; the terminal part "
    caption += "buys back energy that a battery lacks at midnight."
    return _section("money", "Where the money goes", _figure(pictures, "money", caption))


def _days(comparison: Comparison, pictures: Pictures, days: Mapping[str, int]) -> list[str]:
    run, reference = comparison.first_run, comparison.reference
    sections = []
    for label, position in days.items():
        if f"{label}-dispatch" not in pictures:  # a week, of which only totals are kept
            continue
        parts = ", ".join(f"{part} {float(run.parts_usd[part][position]):.1f}" for part in PARTS)
        text = f"J {float(run.j_usd[position]):,.1f} $ ({parts})"
        if reference is not None:
            gap, bound = float(comparison.gap_usd(run.name)[position]), float(reference.bound_usd[position])
            text += f", bound {bound:,.1f} $, gap {gap:.1f} $; "
            text += f"doing nothing costs {float(reference.idle_usd[position]):,.1f} $"
        powers = "Production stacked above zero, charging below; stored energy of all batteries with their limits."
        grid = "Price, head power with its running peak, every bus voltage against the limits, tap positions."
        figures = _figure(pictures, f"{label}-dispatch", powers) + _figure(pictures, f"{label}-grid", grid)
        by = "J" if reference is None else "gap to the bound"
        heading = f"{DAY_TITLES[label]} by {by}: {comparison.dates[position]:%A, %d %B %Y}"
        sections.append(_section(f"day-{label}", heading, f"<p>{text}.</p>{figures}"))
    return sections


def _bound(comparison: Comparison) -> str:
    reference = comparison.reference
    assert reference is not None
    days = reference.scored
    unsolved = ", ".join(reference.unsolved) or "none"
    bound, idle = float(reference.bound_usd[days].mean()), float(reference.idle_usd[days].mean())
    facts = [
        ("source", reference.source),
        ("bound, doing nothing", f"{bound:,.2f} and {idle:,.2f} $/day over {int(days.sum())} days"),
        ("days without a bound, excluded from score and gap", unsolved),
    ]
    if (quality := reference.quality) is not None:
        width = quality.width_usd[days]
        relative = float(width.sum() / reference.bound_usd[days].sum())
        at = [date for date, scored in zip(comparison.dates, days.tolist(), strict=True) if scored]
        given_away = (quality.primal_usd - reference.bound_usd)[days]
        cone, phantom = quality.cone_residual[days], quality.phantom_loss_mwh[days]
        widest, loosest = int(width.argmax()), int(cone.argmax())
        facts[1:1] = [
            (
                "width: the optimum's own schedule, replayed through the env, costs more by",
                f"{float(width.mean()):.2f} $/day ({relative:.3%}) on average, {float(width.max()):.2f} $ at most "
                f"({at[widest]}); the true optimum lies in between",
            ),
            (
                "given away by the certificate",
                f"{float(given_away.mean()):.1e} $/day, {float(given_away.max()):.1e} at most",
            ),
            ("largest cone residual v l - P² - Q²", f"{float(cone.max()):.1e} pu² ({at[loosest]}); 0 is exact"),
            ("phantom losses", f"{float(phantom.mean()):.1e} MWh/day, {float(phantom.max()):.1e} at most"),
        ]
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in facts)
    return _section("bound", "How good is the bound?", f'<table class="facts"><tbody>{lines}</tbody></table>')


def _figure(pictures: Pictures, name: str, caption: str) -> str:
    data = base64.b64encode(pictures[name]).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )
