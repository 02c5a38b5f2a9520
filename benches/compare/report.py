"""What a comparison found, for people: tables in Markdown, and plots.

A ratio is numfuse's time over the best peer's: below 1 numfuse is first. Two of them per cell: every call makes a new result (`fresh`), or
the result goes to an array that was there before (`reused`; peers that have no such thing, or are quicker without, count as they are).
The tables need the standard library alone; `plots` needs matplotlib.
"""

import io
import math
import textwrap
from collections import Counter, defaultdict

import cases
from measure import duration

BEGIN, END = "<!-- compare: begin -->", "<!-- compare: end -->"
OURS = "numfuse"
# In the order of the tables.
DTYPES = ("float64", "float32", "int16")
# From so many elements on comparisons are counted by themselves as well.
LARGE = 1000


def seconds(cell, peer, mode):
    """The median time of a peer in a cell; None if it has none. With `reused` a peer may do without."""
    modes = ("reused", "fresh") if mode == "reused" else ("fresh",)
    times = [cell["results"].get(f"{peer}/{m}", {}).get("median") for m in modes]
    return min((t for t in times if t is not None), default=None)


def names(cell):
    """The peers that a cell has anything of, without ours."""
    return sorted({key.split("/")[0] for key in cell["results"]} - {OURS})


def ratio(cell, mode):
    """(numfuse's time over the best peer's, that peer); None without ours or without any peer."""
    ours = seconds(cell, OURS, mode)
    peers = [(time, name) for name in names(cell) if (time := seconds(cell, name, mode)) is not None]
    if ours is None or not peers:
        return None
    time, name = min(peers)
    return ours / time, name


def modes(cell):
    """Which comparisons a cell has: there is no output to reuse for a single number."""
    return [m for m in ("reused", "fresh") if m == "fresh" or f"{OURS}/reused" in cell["results"]]


def ratios(cells):
    """Every comparison: (cell, mode, ratio, peer)."""
    for cell in cells:
        for mode in modes(cell):
            found = ratio(cell, mode)
            if found:
                yield cell, mode, *found


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def count(n):
    """A size for people: 10, 1e3, 2.5e7."""
    if n < 1000:
        return str(n)
    exponent = int(math.log10(n) + 1e-9)
    return f"{n / 10**exponent:g}e{exponent}"


def short(dtype):
    return dtype.replace("float", "f").replace("int", "i")


def with_threads(threads):
    return "1 thread" if threads == 1 else f"{threads} threads"


def table(header, rows):
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def escaped(text):
    return text.replace("|", "\\|")


def shown(found):
    """A ratio with its peer, bold where numfuse is not first."""
    if found is None:
        return ""
    value, peer = found
    text = f"{value:.2f} {peer}"
    return f"**{text}**" if value > 1 else text


def standing(cells):
    """How often numfuse is first, by threads and dtype; nothing if there is nobody to compare with."""
    groups = defaultdict(list)
    for cell, mode, value, _ in ratios(cells):
        groups[cell["threads"], DTYPES.index(cell["dtype"])].append(value)
    rows = [
        [
            with_threads(threads),
            short(DTYPES[dtype]),
            str(len(values)),
            f"{sum(v <= 1 for v in values)} ({100 * sum(v <= 1 for v in values) / len(values):.0f} %)",
            f"{geometric_mean(values):.2f}",
            f"{max(values):.2f}",
        ]
        for (threads, dtype), values in sorted(groups.items())
    ]
    header = ["threads", "dtype", "comparisons", "numfuse first", "mean ratio to the best", "worst ratio"]
    return table(header, rows) if rows else ""


def summary(cells):
    """How often numfuse is first, and how it stands against each peer."""
    first = standing(cells)
    if not first:
        return ""
    # A call of fewer elements is mostly the price of a call, which has a table of its own.
    large = standing([cell for cell in cells if cell["n"] >= LARGE])
    if large and large != first:
        first += f"\n\nFrom {LARGE:,} elements on:\n\n{large}"
    everyone = sorted({name for cell in cells for name in names(cell)})
    rows = []
    for name in everyone:
        values = []
        for cell in cells:
            for mode in modes(cell):
                ours, theirs = seconds(cell, OURS, mode), seconds(cell, name, mode)
                if ours and theirs:
                    values.append(theirs / ours)
        if values:
            below = sum(v < 1 for v in values)
            rows.append([name, str(len(values)), f"{geometric_mean(values):.1f} x", f"{min(values):.2f} x", str(below)])
    second = table(["peer", "comparisons", "numfuse is quicker by (mean)", "at least", "peer is first in"], rows)
    return f"{first}\n\nMeans are geometric.\n\n{second}" if rows else first


def grid(cells, threads, dtype, mode):
    """Ratios by case and size; None if there are none."""
    own = {cell["case"]: cell for cell in cells}
    usual = [n for n in cases.SIZES if any(cell["n"] == n for cell in cells)]
    rows = []
    for each in cases.CASES:
        if each.name not in own:
            continue
        mine = {
            cell["n"]: ratio(cell, mode)
            for cell in cells
            if cell["case"] == each.name
            and cell["threads"] == threads
            and cell["dtype"] in (dtype, *(d for d in each.dtypes if d not in cases.FLOATS and dtype == "float64"))
            and mode in modes(cell)
        }
        if not any(mine.values()):
            continue
        label = escaped(each.label())
        if each.sizes != cases.SIZES:
            text = ", ".join(f"{count(n)}: {shown(found)}" for n, found in sorted(mine.items()) if found)
            rows.append([f"{label}: {text}"] + [""] * len(usual))
        else:
            rows.append([label] + [shown(mine.get(n)) for n in usual])
    return table(["case", *map(count, usual)], rows) if rows else None


def behind(cells, above=1.0):
    """Every comparison in which numfuse is not first, the worst first."""
    found = [entry for entry in ratios(cells) if entry[2] > above]
    rows = []
    for cell, mode, value, peer in sorted(found, key=lambda entry: -entry[2]):
        each = cases.case(cell["case"])
        rows.append(
            [
                each.name,
                count(cell["n"]),
                short(cell["dtype"]),
                with_threads(cell["threads"]),
                mode,
                f"{value:.2f}",
                peer,
                duration(seconds(cell, OURS, mode)),
                duration(seconds(cell, peer, mode)),
            ]
        )
    return rows


BEHIND_HEADER = ["case", "elements", "dtype", "threads", "output", "ratio", "best peer", "numfuse takes", "it takes"]


def left_out(cells):
    """Why some peers are missing in some cells, the same reasons together."""
    reasons = Counter()
    for cell in cells:
        for key, result in cell["results"].items():
            if "note" in result:
                peer = key.split("/")[0]
                kind = result["note"].split(":")[0]
                reasons[peer, cell["case"], short(cell["dtype"]), kind] += 1
    return [[peer, case, dtype, kind, str(n)] for (peer, case, dtype, kind), n in sorted(reasons.items())]


def markdown(result, plots):
    """The generated section of docs/benchmarks.md."""
    hardware, cells = result["hardware"], result["cells"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    parts = [
        "## Against its peers",
        "Made by `python3 benches/compare/run.py --full --record`; do not edit. "
        "[benches/compare](../benches/compare/README.md) says what is measured and how.",
        f"{result['date']}, commit `{result['commit']}`: {hardware['cpus']} cores of {hardware['cpu']}, caches "
        f"{', '.join(hardware['caches'])}, {hardware['memory_gib']} GiB; Python {hardware['python']}, {versions}. "
        "Load before the run: "
        f"{result['load']:.2f}.",
        "A ratio is numfuse's time over that of the best peer, which is named: below 1 numfuse is first. With *fresh* outputs "
        "each call makes a new array, with *reused* ones it writes to one that was there before.",
        summary(cells),
    ]
    for threads in sorted({cell["threads"] for cell in cells}):
        for dtype in cases.FLOATS:
            for mode in ("reused", "fresh"):
                text = grid(cells, threads, dtype, mode)
                if text:
                    title = f"{short(dtype)}, {with_threads(threads)}, {mode} outputs"
                    parts.append(f"<details><summary>{title}</summary>\n\n{text}\n\n</details>")
    rows = behind(cells)
    if rows:
        title = f"where numfuse is not first: {len(rows)} of {sum(1 for _ in ratios(cells))} comparisons"
        parts.append(f"<details><summary>{title}</summary>\n\n{table(BEHIND_HEADER, rows)}\n\n</details>")
    rows = left_out(cells)
    if rows:
        header = ["peer", "case", "dtype", "why", "times"]
        parts.append(f"<details><summary>who is left out where</summary>\n\n{table(header, rows)}\n\n</details>")
    parts += small_tables(result)
    parts += [f"![{title}](plots/{file})" for file, title in plots]
    return "\n\n".join(parts)


def small_tables(result):
    """Calls, first results, processes, memory, and the machine's own limits."""
    parts = []
    if result.get("overhead"):
        rows = sorted(result["overhead"], key=lambda row: row["seconds"])
        body = table(["call", "time"], [[row["form"], duration(row["seconds"])] for row in rows])
        parts.append(f"The price of a call, `2*a + 3*b**2` on 10 elements:\n\n{body}")
    first = {row["peer"]: row["seconds"] for row in result.get("first", ())}
    programs = {row["peer"]: row["seconds"] for row in result.get("programs", ())}
    grown = {row["peer"]: row["mib"] for row in result.get("memory", ())}
    everyone = list(dict.fromkeys([*first, *programs, *grown]))
    if everyone:

        def value(table_of, name, form):
            return form(table_of[name]) if name in table_of else ""

        rows = [
            [
                name,
                value(first, name, duration),
                value(programs, name, duration),
                value(grown, name, lambda mib: f"{mib:.0f} MiB"),
            ]
            for name in everyone
        ]
        header = ["", "a new text of ten operations to its result", "a new process to its result", "memory"]
        parts.append(
            f"{table(header, rows)}\n\nThe process prints one result of `2*a + 3*b**2`, so all of them contain the start of Python "
            "and NumPy. Memory is what the process grows by in one call of `exp(-a*a)*sin(b) + 1` with 10,000,000 elements, of which "
            "the result has 76 MiB."
        )
    if result.get("stream"):
        rows = [
            [with_threads(int(threads))]
            + [f"{limits[name] / 1e9:.1f} GB/s" for name in ("copy", "triad", "read")]
            + [f"{limits['arithmetic'] / 1e9:.1f} G/s"]
            for threads, limits in sorted(result["stream"].items())
        ]
        header = ["this machine", "copy", "triad", "read", "f64 products and sums"]
        parts.append(table(header, rows))
    return parts


def inserted(document, section):
    """The document with the section between its markers; at the end if it has none."""
    block = f"{BEGIN}\n\n{section}\n\n{END}"
    if BEGIN in document and END in document:
        before, rest = document.split(BEGIN, 1)
        return before + block + rest.split(END, 1)[1]
    return f"{document.rstrip()}\n\n{block}\n"


def terminal(result):
    """What the command prints at its end."""
    cells = result["cells"]
    lines = []
    for cell in cells:
        texts = []
        for mode in modes(cell):
            found = ratio(cell, mode)
            if found:
                value, peer = found
                pair = f"{duration(seconds(cell, OURS, mode))} to {duration(seconds(cell, peer, mode))} of {peer}"
                texts.append(f"{mode:6} {value:5.2f} {pair:38}{'BEHIND' if value > 1 else '':6}")
        if not texts:
            times = ((seconds(cell, name, "reused"), name) for name in names(cell))
            texts = [f"{name} {duration(time)}" for time, name in sorted((t, n) for t, n in times if t is not None)]
        lines.append(
            f"{cell['case']:12}{count(cell['n']):>7} {short(cell['dtype']):4}{with_threads(cell['threads']):>10}   " + "  ".join(texts).rstrip()
        )
    lines += ["", summary(cells), "", *("\n" + text for text in small_tables(result))]
    missing = left_out(cells)
    if missing:
        lines += ["", "left out:"] + ["  " + "  ".join(row) for row in missing]
    return "\n".join(lines)


COLOURS = {
    "numfuse": "#d62728",
    "numpy": "#4c78a8",
    "numexpr": "#54a24b",
    "numba": "#b279a2",
    "numba-parallel": "#7b4f9d",
    "jax": "#f2a541",
    "dask": "#9d755d",
    "blosc2": "#79b7b2",
    "scipy": "#8c8c8c",
}


def plots(result, folder):
    """Writes the pictures; their file names and titles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for threads in sorted({cell["threads"] for cell in result["cells"]}):
        for dtype in cases.FLOATS:
            chosen = [
                cell
                for cell in result["cells"]
                if cell["threads"] == threads and (cell["dtype"] == dtype or dtype == "float64" and cell["dtype"] not in cases.FLOATS)
            ]
            if len({cell["n"] for cell in chosen}) > 1:
                title = f"time per element, {short(dtype)}, {with_threads(threads)}"
                file = f"times-{short(dtype)}-{threads}.png"
                save(times(chosen, title, pyplot), folder / file, pyplot)
                made.append((file, title))
            if chosen:
                title = f"roofline, {short(dtype)}, {with_threads(threads)}"
                figure = roofline(chosen, result["stream"][str(threads)], title, dtype, pyplot)
                if figure:
                    file = f"roofline-{short(dtype)}-{threads}.png"
                    save(figure, folder / file, pyplot)
                    made.append((file, title))
    return made


def save(figure, path, pyplot):
    """With 256 colours, which is a third of the size."""
    from PIL import Image

    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=110)
    pyplot.close(figure)
    Image.open(pixels).convert("RGB").quantize(256).save(path, optimize=True)


def plain_ticks(axis):
    """1, 2, 5, 10 in place of powers, where there is room."""
    from matplotlib import ticker

    low, high = axis.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}" if value < 1e5 else count(value)))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def times(cells, title, pyplot):
    """One panel a case: nanoseconds per element against elements, the better of fresh and reused outputs."""
    shown_cases = [each for each in cases.CASES if len({c["n"] for c in cells if c["case"] == each.name}) > 1]
    columns = min(5, max(1, len(shown_cases)))
    rows = max(1, -(-len(shown_cases) // columns))
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.0 * columns, 2.3 * rows + 0.6), squeeze=False, layout="constrained")
    drawn = {}
    for axis, each in zip(axes.flat, shown_cases):
        mine = sorted((c for c in cells if c["case"] == each.name), key=lambda c: c["n"])
        everyone = [name for name in COLOURS if name != OURS] + [OURS]
        for name in everyone:
            points = [(c["n"], 1e9 * t / c["n"]) for c in mine if (t := seconds(c, name, "reused")) is not None]
            if points:
                ours = name == OURS
                drawn[name] = axis.loglog(
                    *zip(*points),
                    color=COLOURS[name],
                    marker="o",
                    markersize=3.2 if ours else 2.2,
                    linewidth=2.0 if ours else 1.0,
                    label=name,
                )[0]
        text = each.label().replace("`", "")
        axis.set_title(textwrap.fill(text, 46), fontsize=7.5)
        axis.grid(alpha=0.25, linewidth=0.5)
        plain_ticks(axis)
    for axis in list(axes.flat)[len(shown_cases) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("ns per element")
    for axis in axes[-1, :]:
        axis.set_xlabel("elements")
    figure.suptitle(title, fontsize=11)
    order = [name for name in COLOURS if name in drawn]
    figure.legend([drawn[name] for name in order], order, loc="outside lower center", ncols=len(order), frameon=False)
    return figure


def roofline(cells, limits, title, dtype, pyplot):
    """Operations per second against operations per byte, for the largest size of each case; None without numfuse."""
    largest = {}
    for cell in cells:
        if cell["n"] >= 1_000_000 and cell["bytes"] and cell["n"] >= largest.get(cell["case"], cell)["n"]:
            largest[cell["case"]] = cell
    chosen = [cell for cell in largest.values() if cell["dtype"] == dtype and seconds(cell, OURS, "reused")]
    if not chosen:
        return None
    figure, axis = pyplot.subplots(figsize=(11, 5.8), layout="constrained")
    # Twice as many numbers of half the size fit a register.
    top = limits["arithmetic"] * (2 if dtype == "float32" else 1)
    intensity = {cell["case"]: cell["operations"] * cell["n"] / cell["bytes"] for cell in chosen}
    # Those of one intensity stand side by side.
    place = {}
    for value in set(intensity.values()):
        alike = sorted(name for name, other in intensity.items() if other == value)
        place.update((name, value * 1.08 ** (i - (len(alike) - 1) / 2)) for i, name in enumerate(alike))
    left, right = min(intensity.values()) / 2, max([*intensity.values(), top / limits["copy"]]) * 3
    grid_points = [left * (right / left) ** (i / 200) for i in range(201)]
    for name, style in (("triad", "-"), ("read", "--")):
        roof = [min(top, limits[name] * x) / 1e9 for x in grid_points]
        axis.loglog(grid_points, roof, "k" + style, linewidth=1, label=f"{name}: {limits[name] / 1e9:.0f} GB/s")
    for cell in chosen:
        x = place[cell["case"]]
        work = cell["operations"] * cell["n"] / 1e9
        ours = work / seconds(cell, OURS, "reused")
        found = ratio(cell, "reused")
        if found:
            value, peer = found
            axis.plot([x, x], [ours, ours * value], color="#bbbbbb", linewidth=0.8, zorder=1)
            axis.plot(x, ours * value, "o", color=COLOURS[peer], markersize=4, zorder=2)
        axis.plot(x, ours, "o", color=COLOURS[OURS], markersize=5.5, zorder=3)
        axis.annotate(cell["case"], (x, ours), textcoords="offset points", xytext=(5, 3), fontsize=6.5)
    axis.set_xlabel("operations per byte of inputs and outputs (a function is one operation; equal ones side by side)")
    axis.set_ylabel("1e9 operations per second")
    axis.grid(alpha=0.25, linewidth=0.5)
    used = {OURS} | {found[1] for cell in chosen if (found := ratio(cell, "reused"))}
    for name in (name for name in COLOURS if name in used):
        label = name if name == OURS else f"{name}, where it is the best peer"
        axis.plot([], [], "o", color=COLOURS[name], label=label)
    figure.legend(loc="outside right center", frameon=False)
    axis.set_title(title)
    return figure
