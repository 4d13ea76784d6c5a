"""Draws the CSV of bench/gpu.py: python3 bench/plot_gpu.py build/bench/gpu.csv > gpu.svg

A panel for each pass, type and mask, a group of bars for each head dim and length, a bar for each program: TFLOP/s, in
decode GB/s. The whisker of a bar goes from the first to the third quartile of its rounds.
"""
import csv
import sys

COLOUR = {"flashattn": "#d1495b", "torch-flash": "#30638e", "torch-cudnn": "#66a182", "torch-efficient": "#edae49"}
WIDTH, HEIGHT, LEFT, GAP = 900, 190, 60, 70


def text(x, y, words, anchor="middle", size=11):
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def panel(rows, top, title):
    """Bars of rows, which share pass, type and mask."""
    unit = "gbs" if rows[0]["pass"] == "decode" else "tflops"

    def problem(r):
        return int(r["head_dim"]), int(r["batch"]), int(r["seqlen_q"]) * int(r["heads"]) // int(r["heads_k"]), int(r["seqlen_k"])

    groups = list(dict.fromkeys(map(problem, rows)))
    high = max(max(float(r[unit]) for r in rows) * 1.1, 1e-9)
    step, out = (WIDTH - LEFT - 10) / len(groups), [text(LEFT, top - 10, title, "start", 13)]
    for n in range(5):
        y = top + HEIGHT - HEIGHT * n / 4
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(text(LEFT - 6, y + 4, f"{high * n / 4:.3g}", "end"))
    for g, (dim, batch, packed, keys) in enumerate(groups):
        here = [r for r in rows if problem(r) == (dim, batch, packed, keys)]
        bar = step * 0.8 / len(COLOUR)
        for p, program in enumerate(COLOUR):
            for r in here:
                if r["program"] != program:
                    continue
                x, value = LEFT + g * step + step * 0.1 + p * bar, float(r[unit])
                h = value / high * HEIGHT
                out.append(f'<rect x="{x:.1f}" y="{top + HEIGHT - h:.1f}" width="{bar * 0.9:.1f}" height="{h:.1f}" fill="{COLOUR[program]}"/>')
                middle = float(r["median_us"])
                lo, hi = (h * middle / float(r[q]) for q in ("q3_us", "q1_us"))
                out.append(f'<line x1="{x + bar * 0.45:.1f}" x2="{x + bar * 0.45:.1f}" y1="{top + HEIGHT - hi:.1f}" '
                           f'y2="{top + HEIGHT - lo:.1f}" stroke="#222"/>')
        name = f"{keys // 1024}k" + (f" x {batch}, {packed} rows" if unit == "gbs" else "")
        out += [text(LEFT + (g + 0.5) * step, top + HEIGHT + 14, name), text(LEFT + (g + 0.5) * step, top + HEIGHT + 28, f"d {dim}")]
    return out


def main():
    with open(sys.argv[1], newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["median_us"] and r["data"] == "random"]
    if not rows:
        sys.exit("plot_gpu.py: nothing was timed")
    out, top = [], 70
    for key in dict.fromkeys((r["pass"], r["dtype"], r["mask"]) for r in rows):
        of = [r for r in rows if (r["pass"], r["dtype"], r["mask"]) == key]
        unit = f"GB/s of K and V (copy: {rows[0]['copy_gbs']})" if key[0] == "decode" else f"{key[2]} mask, TFLOP/s"
        unit = f"{key[0]}, {key[1]}, {unit}"
        out += panel(of, top, unit)
        top += HEIGHT + GAP
    first = rows[0]
    about = f"{first['card']}, driver {first['driver']}, PyTorch {first['torch']}, cuDNN {first['cudnn']}, {first['date']}, {first['commit']}"
    legend = [text(LEFT, 20, about, "start")]
    for n, (program, colour) in enumerate(COLOUR.items()):
        legend.append(f'<rect x="{LEFT + 150 * n}" y="30" width="12" height="12" fill="{colour}"/>' + text(LEFT + 150 * n + 18, 40, program, "start"))
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top - 20}" font-family="sans-serif">')
    print('<rect width="100%" height="100%" fill="white"/>')
    print("\n".join(legend + out))
    print("</svg>")


if __name__ == "__main__":
    main()
