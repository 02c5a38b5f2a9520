"""What a run on a GPU found, for people: tables in Markdown, and plots.

    python3 benches/gpu/report.py RESULT.json --record     # writes docs/benchmarks-gpu.md and its plots

Rates are those of the least that any program has to move: inputs once, outputs once; of products of matrices, of what they have to compute.
The tables need the standard library alone, the plots matplotlib. A run with `--small`, or on a stand-in for a GPU, is never recorded.
"""

import argparse
import json
import pathlib
import sys

import cases

OURS = "numfuse"
# Without cuBLAS, as products.py has it.
OWN = "numfuse-own"
PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "benchmarks-gpu.md"
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
# What is expected besides rates: the host's time of a call, of a kernel to its loaded code without and with it on disk, and the share of
# the pinned copy's rate at which arrays of the host stream through.
HOST_US, COLD_MS, DISK_MS, STREAMED = 5.0, 150.0, 1.0, 0.9


def of_kind(result, kind):
    return [record for record in result["records"] if record["kind"] == kind]


def ceiling(result):
    """The better of the copies before and after, in GB/s; None if there is none."""
    return max((record["gbs"] for record in of_kind(result, "ceiling")), default=None)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def section(title, body):
    return f"\n## {title}\n\n{body}\n" if body else ""


def bold(text, is_bad):
    return f"**{text}**" if is_bad else text


def stages(result):
    rows = []
    for stage in result["stages"]:
        why = stage.get("why") or (stage.get("output", "").strip().splitlines() or [""])[-1]
        rows.append([stage["stage"], bold(stage["status"], stage["status"] in ("failed", "out of time")), f"{stage.get('seconds', 0)} s", why[:120]])
    return table(["stage", "", "time", ""], rows)


def checks(result):
    rows = [
        [r["samples"], f"{r['done']:.0f}", bold(f"{r['failed']:.0f}", r["failed"]), f"{r['kernels']:.0f}", r["ended"], f"{r['seconds']:.1f} s"]
        for r in of_kind(result, "check")
        if r["stage"].startswith("check")
    ]
    return rows and table(["samples", "compared with the interpreter", "different or failed", "kernels", "ended", "time"], rows)


def times(result, chosen):
    """Case to library to record, for large arrays of some cases."""
    names, found = {case.name for case in chosen}, {}
    for record in of_kind(result, "large"):
        if record["case"] in names:
            found.setdefault(record["case"], {})[record["lib"]] = record
    return found


def named(case):
    """A case for a table."""
    return f"`{case.text.splitlines()[-1].replace('|', chr(92) + '|')}` ({case.name})"


def to_best_peer(each):
    """Our time over that of the best peer, which is named; bold if it is longer."""
    best = min(((record["ms"], lib) for lib, record in each.items() if lib not in (OURS, OWN)), default=None)
    if OURS not in each or best is None:
        return ""
    return bold(f"{each[OURS]['ms'] / best[0]:.2f} {best[1]}", each[OURS]["ms"] > best[0])


def large(result):
    most = ceiling(result)
    found = times(result, cases.CASES)
    libraries = sorted({lib for each in found.values() for lib in each} - {OURS})
    rows = []
    for case in cases.CASES:
        each = found.get(case.name)
        if not each:
            continue
        ours = each.get(OURS)
        share = ours["gbs"] / most if ours and most else None
        row = [
            named(case),
            f"{ours['ms']:.3f}" if ours else "",
            f"{ours['gbs']:.0f}" if ours else "",
            bold(f"{100 * share:.0f} %", share < case.expected) if share else "",
            f"{100 * case.expected:.0f} %",
            to_best_peer(each),
        ]
        row += [f"{each[lib]['ms']:.3f}" if lib in each else "" for lib in libraries]
        rows.append(row)
    header = ["case", "numfuse, ms", "GB/s", "of a copy", "expected", "ratio to the best peer", *(f"{lib}, ms" for lib in libraries)]
    return rows and table(header, rows)


def products(result):
    """Products of matrices: operations a second, and the share of what the device could do: of the time that the operations take at the
    best rate of any library for the plain product, or that the bytes take at the rate of a copy, whichever is longer."""
    most = ceiling(result)
    found = times(result, cases.PRODUCTS)
    libraries = sorted({lib for each in found.values() for lib in each} - {OURS, OWN})

    def operations(case, record):
        return case.operations(cases.bind(case.sizes, record["elements"]))
    plain = {}
    for dtype, name in cases.PLAIN.items():
        plain[dtype] = max((operations(cases.case(name), record) / record["ms"] for record in found.get(name, {}).values()), default=None)

    def share(case, record):
        rate = plain[next(iter(case.inputs.values()))[0]]
        limits = [operations(case, record) / rate] if rate else []
        limits += [record["bytes"] / most / 1e6] if most else []
        # With one of them unknown there is no telling which is longer.
        return f"{100 * max(limits) / record['ms']:.0f} %" if len(limits) == 2 else ""
    rows = []
    for case in cases.PRODUCTS:
        each = found.get(case.name)
        if not each:
            continue
        row = [named(case)]
        for lib in (OURS, OWN):
            record = each.get(lib)
            row += [f"{record['ms']:.3f}", f"{operations(case, record) / record['ms'] / 1e9:.2f}", share(case, record)] if record else [""] * 3
        row.append(to_best_peer(each))
        row += [f"{each[lib]['ms']:.3f}" if lib in each else "" for lib in libraries]
        rows.append(row)
    header = ["case", "numfuse, ms", "TFLOP/s", "of the device", "without cuBLAS, ms", "TFLOP/s", "of the device", "ratio to the best peer"]
    return rows and table(header + [f"{lib}, ms" for lib in libraries], rows)


def small(result):
    records = of_kind(result, "small")
    libraries = sorted({r["lib"] for r in records} - {OURS})
    rows = []
    for name in cases.SMALL_CASES:
        for n in sorted({r["elements"] for r in records if r["case"] == name}):
            each = {r["lib"]: r for r in records if r["case"] == name and r["elements"] == n}
            ours = each.get(OURS)
            row = [name, f"{n:,.0f}"]
            row += [bold(f"{ours['host_us']:.1f}", ours["host_us"] > HOST_US), f"{ours['call_us']:.1f}"] if ours else ["", ""]
            row += [f"{each[lib]['host_us']:.1f}, {each[lib]['call_us']:.1f}" if lib in each else "" for lib in libraries]
            rows.append(row)
    header = ["case", "elements", "numfuse, host", "numfuse, call", *(f"{lib}, host, call" for lib in libraries)]
    parts = [rows and table(header, rows)]
    rows = [[f"`x*y + z`, {r['what']}", f"{r['elements']:,.0f}", bold(f"{r['host_us']:.1f}", r["host_us"] > HOST_US), f"{r['call_us']:.1f}"]
            for r in of_kind(result, "evaluate")]
    parts.append(rows and table(["numfuse's own interface", "elements", "host", "call"], rows))
    return "\n\n".join(part for part in parts if part)


def others(result):
    rows = [[r["case"], f"{r['kernels']:.0f}", bold(f"{r['cold_ms']:.1f}", r["cold_ms"] > COLD_MS * r["kernels"]),
             bold(f"{r['disk_ms']:.2f}", r["disk_ms"] > DISK_MS * r["kernels"])] for r in of_kind(result, "compile")]
    parts = [rows and table(["case", "kernels", "compiled and loaded, ms", "from disk and loaded, ms"], rows)]
    rows = [[r["what"], f"{r['gbs']:.1f}", ""] for r in of_kind(result, "transfer")]
    pinned = next((r["gbs"] for r in of_kind(result, "transfer") if r["what"] == "up, pinned"), None)
    for r in of_kind(result, "stream"):
        share = r["up_gbs"] / pinned if pinned else None
        shown = bold(f"{100 * share:.0f} %", share < STREAMED) if share else ""
        rows.append(["`x*y + z` on arrays of the host, bytes up", f"{r['up_gbs']:.1f}", shown])
    parts.append(rows and table(["copy", "GB/s", "of the pinned copy up"], rows))
    return "\n\n".join(part for part in parts if part)


def left_out(result):
    rows = [[r["peer"], "", r["missing"]] for r in of_kind(result, "peer") if "missing" in r]
    rows += [[r["lib"], r["case"], r["why"]] for r in of_kind(result, "left out")]
    rows += [["", r["what"], r["why"]] for r in of_kind(result, "skipped")]
    rows += [[OURS, r["refused"], "not on a device"] for r in of_kind(result, "check") if r.get("refused")]
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return rows and table(["library", "case", "why it was left out"], rows)


def about(result):
    smoke = next(iter(of_kind(result, "smoke")), {})
    versions = [f"{r['peer']} {r['version']}" for r in of_kind(result, "peer") if "version" in r]
    most = ceiling(result)
    device = smoke.get("device") or "no device"
    lines = [f"{result['date']}, {device} ({smoke.get('arch', '?')}, {smoke.get('multiprocessors', 0):.0f} multiprocessors), driver for CUDA "
             f"{smoke.get('driver', '?')}, NVRTC {smoke.get('nvrtc', '?')}, commit {result['commit'] or 'unknown'}."]
    if result["hardware"].get("nvidia-smi"):
        lines.append(f"`nvidia-smi`: {result['hardware']['nvidia-smi']}.")
    if versions:
        lines.append(f"Peers: {', '.join(versions)}.")
    if most:
        lines.append(f"A copy on the device moves {most:.0f} GB/s, read and written bytes counted.")
    if is_trial(result):
        lines.append("**A trial on something that is no GPU: the numbers mean nothing.**")
    return "\n".join(lines)


def is_trial(result):
    """True if this was not a real run: small sizes, no smoke test, or a device that the stand-in calls itself."""
    smoke = next(iter(of_kind(result, "smoke")), {})
    return result["small"] or "emulated" in smoke.get("device", "emulated")


def markdown(result):
    return about(result) + "\n" + "".join(
        section(title, body)
        for title, body in (
            ("Correctness", checks(result)),
            ("Large arrays", large(result)),
            ("Products of matrices", products(result)),
            ("The price of a call (us)", small(result)),
            ("Compiling, and copies from and to the host", others(result)),
            ("Left out", left_out(result)),
            ("Stages", stages(result)),
        )
    )


def plots(result, folder):
    """Rates of the large cases as bars, times against size as lines. Returns the files."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found, files = times(result, cases.CASES), []
    libraries = [OURS, *sorted({lib for each in found.values() for lib in each} - {OURS})]
    names = [case.name for case in cases.CASES if case.name in found]
    if names:
        figure, axes = pyplot.subplots(figsize=(12, 5))
        width = 0.8 / len(libraries)
        for n, lib in enumerate(libraries):
            rates = [found[name].get(lib, {}).get("gbs", 0) for name in names]
            axes.bar([at + n * width for at in range(len(names))], rates, width, label=lib)
        if most := ceiling(result):
            axes.axhline(most, color="black", linestyle="--", label="copy on the device")
        axes.set_xticks([at + 0.4 - width / 2 for at in range(len(names))], names, rotation=45, ha="right")
        axes.set_ylabel("GB/s")
        axes.legend()
        figure.tight_layout()
        files.append(folder / "gpu-rates.svg")
        figure.savefig(files[-1])
    records = of_kind(result, "small")
    if records:
        figure, panels = pyplot.subplots(1, len(cases.SMALL_CASES), figsize=(12, 4), squeeze=False)
        for axes, name in zip(panels[0], cases.SMALL_CASES):
            for lib in sorted({r["lib"] for r in records}):
                points = sorted((r["elements"], r["call_us"]) for r in records if r["case"] == name and r["lib"] == lib)
                if points:
                    axes.loglog(*zip(*points), marker="o", label=lib)
            axes.set_title(name)
            axes.set_xlabel("elements")
        panels[0][0].set_ylabel("us a call")
        panels[0][0].legend()
        figure.tight_layout()
        files.append(folder / "gpu-calls.svg")
        figure.savefig(files[-1])
    return files


def record(result, page=PAGE):
    """Writes the page between its marks; a trial is refused."""
    if is_trial(result):
        raise SystemExit("this was a trial, on something that is no GPU: it is not for the record")
    text = page.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    _, before = before.split("\n", 1)
    device = next(iter(of_kind(result, "smoke")))["device"]
    first = f"Measured on {result['date']}, {device}.\n"
    shown = ""
    try:
        folder = page.parent / "plots"
        folder.mkdir(exist_ok=True)
        shown = "".join(f"\n![{file.stem}](plots/{file.name})\n" for file in plots(result, folder))
    except ImportError as error:
        print(f"no plots: {error}")
    page.write_text(f"{first}{before}{BEGIN}\n{markdown(result)}{shown}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks-gpu.md")
    options = parser.parse_args()
    loaded = json.loads(options.result.read_text())
    if options.record:
        record(loaded)
    sys.stdout.write(markdown(loaded))
