"""Times the CUDA kernels next to PyTorch's SDPA backends, in one process on one GPU; bench/run_gpu.sh builds and calls it.

    python3 bench/gpu.py --libraries build/gpu [--seconds 240] [--csv FILE] [--commit ID] [--filter TEXT] [--dry-run]

HOW IT MEASURES
    One cell (pass, head dim, length, mask) at a time: first every program computes it, and is compared with attention in
    double on one head, and with the others on all. What is wrong is reported and not timed. Then the programs take turns:
    one call each, round after round, for the cell's share of the time left, 5 rounds at least. Before each call a buffer
    of twice the L2 is overwritten, so inputs come from memory, and the GPU is kept busy while the CPU queues the call, so
    launches are not counted. CUDA events; the median, with quartiles.
    forward: O and LSE. backward: dQ, dK, dV from O, LSE and dO, all kernels of it. decode: one query of each sequence.
UNITS
    TFLOP/s: forward 4 b h s s d, backward 2.5 times that; half of both under a causal mask.
    GB/s of decode: K and V once. Share: of a copy of 1 GiB in the same run, which counts what is read and what is written.
"""
import argparse
import csv
import ctypes
import datetime
import math
import os
import statistics
import subprocess
import sys
import time

DEVICE = "cuda"
FORWARD, BACKWARD, DECODE = 1, 2, 4  # FA_FORWARD ..
PASSES = {"forward": FORWARD, "backward": BACKWARD, "decode": DECODE}
OURS = "flashattn"
PEERS = {"torch-flash": "FLASH_ATTENTION", "torch-cudnn": "CUDNN_ATTENTION", "torch-efficient": "EFFICIENT_ATTENTION"}
TOLERANCE = 0.01  # || o - exact || / || exact ||; rounding to bf16 alone makes 0.002 to 0.005
MIN_ROUNDS, MAX_ROUNDS = 5, 31
BUSY = 1_000_000  # clocks: half a millisecond in which the CPU queues the call


class Cell:
    """One problem: (batch, heads, seq, dim) tensors in bf16."""

    def __init__(self, what, dim, batch, heads, heads_k, seqlen_q, seqlen_k, causal):
        self.what, self.dim, self.batch, self.heads, self.heads_k = what, dim, batch, heads, heads_k
        self.seqlen_q, self.seqlen_k, self.causal = seqlen_q, seqlen_k, causal

    def __str__(self):
        mask = "" if self.what == "decode" else " causal" if self.causal else " full"
        heads = f"{self.heads}" if self.heads == self.heads_k else f"{self.heads}/{self.heads_k}"
        return f"{self.what} d{self.dim} b{self.batch} h{heads} {self.seqlen_q}x{self.seqlen_k}{mask}"

    def flops(self):
        pairs = self.seqlen_q * self.seqlen_k / (2 if self.causal else 1)
        return 4 * self.batch * self.heads * pairs * self.dim * (2.5 if self.what == "backward" else 1)

    def bytes(self):
        return 2 * 2 * self.batch * self.heads_k * self.seqlen_k * self.dim


def all_cells():
    """16 k tokens and a width of 2048 in each; what was promised first comes first."""
    for what in ("forward", "backward"):
        for dim in (128, 64, 256):
            for seqlen in (1024, 4096, 16384):
                for causal in (False, True):
                    heads = 2048 // dim
                    yield Cell(what, dim, 16384 // seqlen, heads, heads, seqlen, seqlen, causal)
    for dim in (128, 64, 256):
        yield Cell("decode", dim, 64, 32, 8, 1, 8192, False)
    for keys in (8192, 32768, 131072):
        yield Cell("decode", 128, 1, 32, 8, 1, keys, False)


def cell_seconds(left, cells_left):
    """The share of the next cell in the time that is left."""
    return max(0.0, left) / max(1, cells_left)


# ---- our kernels ----


class Problem(ctypes.Structure):  # bench_problem of gpu_kernels.cu
    _fields_ = (
        [(n, ctypes.c_int32) for n in ("head_dim", "pass_", "batch", "heads", "heads_k", "seqlen_q", "seqlen_k", "causal")]
        + [(n, ctypes.c_void_p) for n in ("q", "k", "v", "d_o", "o", "lse", "dq", "dk", "dv", "workspace")]
        + [("bytes", ctypes.c_uint64), ("stream", ctypes.c_void_p)]
    )


class Library:
    """libbench64.so and so on, one for each head dim."""

    def __init__(self, folder):
        self.of = {}
        for dim in (64, 128, 256):
            path = os.path.join(folder, f"libbench{dim}.so")
            if os.path.exists(path):
                lib = ctypes.CDLL(os.path.abspath(path))
                lib.bench_workspace.restype = ctypes.c_uint64
                self.of[dim] = lib

    def has(self, cell):
        return cell.dim in self.of and bool(self.of[cell.dim].bench_has(cell.dim, PASSES[cell.what]))

    def prepare(self, torch, cell, t, stream):
        """A call that computes the cell, and its results by name."""
        lib, out = self.of[cell.dim], {"o": torch.empty_like(t["q"])}
        out["lse"] = torch.empty(t["q"].shape[:3], dtype=torch.float32, device=t["q"].device)
        keep = [out]  # what the call writes, workspaces and structs live as long as it does

        def bind(what):
            p = Problem(cell.dim, PASSES[what], cell.batch, cell.heads, cell.heads_k, cell.seqlen_q, cell.seqlen_k, cell.causal)
            for name in ("q", "k", "v"):
                setattr(p, name, t[name].data_ptr())
            for name, x in out.items():
                setattr(p, name, x.data_ptr())
            if what == "backward":
                p.d_o = t["d_o"].data_ptr()
            p.stream = stream
            p.bytes = lib.bench_workspace(ctypes.byref(p))
            workspace = torch.zeros(max(1, p.bytes), dtype=torch.uint8, device=t["q"].device)
            p.workspace = workspace.data_ptr() if p.bytes else None
            message = ctypes.create_string_buffer(300)
            keep.append((p, workspace, message))

            def call():
                if lib.bench_run(ctypes.byref(p), message, ctypes.c_uint64(300)) != 0:
                    raise RuntimeError(message.value.decode())

            return call

        if cell.what == "backward":
            if not lib.bench_has(cell.dim, FORWARD):
                raise RuntimeError("no forward pass")
            bind("forward")()
            for name, x in (("dq", "q"), ("dk", "k"), ("dv", "v")):
                out[name] = torch.empty_like(t[x])
        call = bind(cell.what)
        for x in (out["dq"], out["dk"], out["dv"]) if cell.what == "backward" else (out["o"], out["lse"]):
            x.fill_(math.nan)  # what is not written is seen
        call()
        call.keep = keep
        return call, out


# ---- PyTorch ----


def prepare_peer(torch, cell, t, backend):
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    forced = getattr(SDPBackend, backend)
    options = {"is_causal": cell.causal}
    if cell.heads != cell.heads_k:
        options["enable_gqa"] = True

    def attention(q, k, v):
        with sdpa_kernel(forced):
            return F.scaled_dot_product_attention(q, k, v, **options)

    if cell.what != "backward":
        with torch.no_grad():
            out = {"o": attention(t["q"], t["k"], t["v"])}

        def call():
            with torch.no_grad():
                attention(t["q"], t["k"], t["v"])

        return call, out
    x = [t[n].detach().requires_grad_() for n in ("q", "k", "v")]
    o = attention(*x)

    def call():
        return torch.autograd.grad(o, x, t["d_o"], retain_graph=True)

    return call, dict(zip(("dq", "dk", "dv"), call()), o=o.detach())


# ---- checks ----


def exact(torch, cell, t):
    """O and gradients of the last head of the last sequence, in double, 1024 rows at a time."""
    q, k, v = t["q"][-1, -1].double(), t["k"][-1, -1].double(), t["v"][-1, -1].double()
    d_o = t["d_o"][-1, -1].double() if cell.what == "backward" else None
    o, dq, dk, dv = torch.empty_like(q), torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    keys = torch.arange(cell.seqlen_k, device=q.device)
    scale = 1 / math.sqrt(cell.dim)
    for lo in range(0, cell.seqlen_q, 1024):
        hi = min(lo + 1024, cell.seqlen_q)
        s = q[lo:hi] @ k.T * scale
        if cell.causal:
            rows = torch.arange(lo, hi, device=q.device) + cell.seqlen_k - cell.seqlen_q
            s.masked_fill_(keys[None, :] > rows[:, None], -math.inf)
        p = torch.softmax(s, -1)
        o[lo:hi] = p @ v
        if d_o is not None:
            ds = p * (d_o[lo:hi] @ v.T - (d_o[lo:hi] * o[lo:hi]).sum(-1, keepdim=True)) * scale
            dq[lo:hi] = ds @ k
            dk += ds.T @ q[lo:hi]
            dv += p.T @ d_o[lo:hi]
    return {"o": o} if d_o is None else {"dq": dq, "dk": dk, "dv": dv}


def relative(got, want):
    """|| got - want || / || want ||, infinity if that is NaN."""
    error = ((got.double() - want.double()).norm() / want.double().norm()).item()
    return error if error == error else math.inf


# ---- time ----


class Clock:
    def __init__(self, torch):
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self.torch, self.dirt = torch, torch.empty(max(2 * l2, 1 << 26), dtype=torch.uint8, device=DEVICE)

    def queue(self, call):
        """Queues a cold call between two events."""
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.dirt.zero_()
        self.torch.cuda._sleep(BUSY)
        begin.record()
        call()
        end.record()
        return begin, end

    def rounds(self, calls, seconds):
        """Milliseconds of each call, all in turn; at least MIN_ROUNDS of them."""
        times, until = {name: [] for name in calls}, time.monotonic() + seconds
        for name, call in calls.items():  # warm
            call()
        for n in range(MAX_ROUNDS):
            events = {name: self.queue(call) for name, call in calls.items()}
            self.torch.cuda.synchronize()
            for name, (begin, end) in events.items():
                times[name].append(begin.elapsed_time(end))
            if n + 1 >= MIN_ROUNDS and time.monotonic() > until:
                break
        return times


def copy_rate(torch, clock):
    """GB/s, read and written, of a copy of 1 GiB."""
    x, y = (torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    x.random_()
    times = clock.rounds({"copy": lambda: y.copy_(x)}, 0.5)["copy"]
    return 2 * (1 << 30) / statistics.median(times) / 1e6


# ---- one cell ----


def run_cell(torch, cell, library, clock, seconds, copy, base):
    """Rows of the CSV. A program that fails or is wrong has a note and no time."""
    began = time.monotonic()
    generator = torch.Generator(device=DEVICE).manual_seed(1)

    def random(heads, rows):
        shape = (cell.batch, heads, rows, cell.dim)
        return torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.float32).to(torch.bfloat16)

    t = {"q": random(cell.heads, cell.seqlen_q), "k": random(cell.heads_k, cell.seqlen_k), "v": random(cell.heads_k, cell.seqlen_k)}
    if cell.what == "backward":
        t["d_o"] = random(cell.heads, cell.seqlen_q)
    want = exact(torch, cell, t)
    calls, rows, results = {}, {}, {}
    for name in [OURS, *PEERS]:
        row = rows[name] = dict(base, program=name, note="", **cell_columns(cell))
        try:
            if name == OURS:
                if not library.has(cell):
                    raise RuntimeError("not compiled in")
                call, out = library.prepare(torch, cell, t, torch.cuda.current_stream().cuda_stream)
            else:
                call, out = prepare_peer(torch, cell, t, PEERS[name])
            torch.cuda.synchronize()
        except Exception as e:  # a backend that has no kernel for it
            if "CUDA error" in str(e):
                raise  # the context is gone, and with it all that follows
            row["note"] = "none: " + (str(e).strip().splitlines() or [type(e).__name__])[0][:120].replace(",", ";")
            continue
        error = max(relative(out[n][-1, -1], w) for n, w in want.items())
        row["error"] = f"{error:.2e}"
        if not error <= TOLERANCE:
            row["note"] = "WRONG"
            continue
        results[name] = {n: out[n] for n in want}
        calls[name] = call
    for name, out in results.items():  # all heads, next to the first that is right
        first = next(iter(results))
        difference = max(relative(out[n], results[first][n]) for n in want)
        rows[name]["difference"] = f"{difference:.2e}"
        if not difference <= 2 * TOLERANCE:
            for x in (name, first):  # who of the two is not known
                rows[x]["note"] = f"WRONG: {name} and {first} differ in heads that are not compared with double"
                calls.pop(x, None)
    del results, want
    if calls:
        times = clock.rounds(calls, max(0.0, seconds - (time.monotonic() - began)))
        for name, ms in times.items():
            q1, median, q3 = statistics.quantiles(ms, n=4, method="inclusive")
            row = rows[name]
            row.update(median_us=f"{median * 1e3:.2f}", q1_us=f"{q1 * 1e3:.2f}", q3_us=f"{q3 * 1e3:.2f}", rounds=len(ms))
            if cell.what == "decode":
                row.update(gbs=f"{cell.bytes() / median / 1e6:.0f}", share_of_copy=f"{cell.bytes() / median / 1e6 / copy:.3f}")
            else:
                row["tflops"] = f"{cell.flops() / median / 1e9:.1f}"
    return list(rows.values())


COLUMNS = ("date commit card driver cuda torch cudnn copy_gbs pass head_dim batch heads heads_k seqlen_q seqlen_k mask program "
           "median_us q1_us q3_us rounds tflops gbs share_of_copy error difference note").split()


def cell_columns(cell):
    return {"pass": cell.what, "head_dim": cell.dim, "batch": cell.batch, "heads": cell.heads, "heads_k": cell.heads_k,
            "seqlen_q": cell.seqlen_q, "seqlen_k": cell.seqlen_k, "mask": "causal" if cell.causal else "full"}


def value(row):
    """What stands in the table."""
    if row.get("tflops"):
        return row["tflops"]
    if row.get("gbs"):
        return f"{row['gbs']} ({100 * float(row['share_of_copy']):.0f}%)"
    return row["note"].split(":")[0] or "-"


def table(cells):
    """(cell, rows) as lines; the ratio is ours to torch-flash's."""
    lines = [f"{'TFLOP/s; decode GB/s (of copy)':38}" + "".join(f"{n:>16}" for n in [OURS, *PEERS]) + f"{'x flash':>9}"]
    for cell, rows in cells:
        of = {r["program"]: r for r in rows}
        both = [float(of[n]["median_us"]) if of[n].get("median_us") else 0 for n in (OURS, "torch-flash")]
        ratio = f"{both[1] / both[0]:.2f}" if all(both) else "-"
        lines.append(f"{str(cell):38}" + "".join(f"{value(of[n]):>16}" for n in [OURS, *PEERS]) + f"{ratio:>9}")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--libraries", default="build/gpu")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--csv", default="build/bench/gpu.csv")
    parser.add_argument("--commit", default="")
    parser.add_argument("--filter", default="")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and their time")
    options = parser.parse_args()
    began = time.monotonic()
    cells = [c for c in all_cells() if options.filter in str(c)]
    if options.dry_run:
        for cell in cells:
            size = f"{cell.bytes() / 1e9:.2f} GB" if cell.what == "decode" else f"{cell.flops() / 1e12:.2f} TFLOP"
            print(f"{str(cell):38} {size:>12} {cell_seconds(options.seconds, len(cells)):6.1f} s")
        print(f"{len(cells)} cells, {options.seconds:.0f} s")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("gpu.py: PyTorch sees no GPU: skipped")
        return 77
    library = Library(options.libraries)
    driver = subprocess.run(["nvidia-smi", "-i", "0", "--query-gpu=driver_version", "--format=csv,noheader"],
                            capture_output=True, text=True, check=False).stdout.strip()
    clock = Clock(torch)
    copy = copy_rate(torch, clock)
    base = {"date": datetime.date.today().isoformat(), "commit": options.commit, "card": torch.cuda.get_device_name(0),
            "driver": driver, "cuda": torch.version.cuda, "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(), "copy_gbs": f"{copy:.0f}"}
    about = f"{base['card']}, driver {driver}, CUDA {base['cuda']}, PyTorch {base['torch']}, cuDNN {base['cudnn']}, copy {copy:.0f} GB/s"
    print(about, flush=True)
    os.makedirs(os.path.dirname(options.csv) or ".", exist_ok=True)
    done, wrong = [], 0
    with open(options.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for n, cell in enumerate(cells):
            left = options.seconds - (time.monotonic() - began)
            if left <= 1:
                print(f"no time for {len(cells) - n} of {len(cells)} cells")
                break
            try:
                rows = run_cell(torch, cell, library, clock, cell_seconds(left, len(cells) - n), copy, base)
            except torch.cuda.OutOfMemoryError:
                print(f"{cell}: not enough memory", flush=True)
                torch.cuda.empty_cache()
                continue
            writer.writerows(rows)
            file.flush()
            done.append((cell, rows))
            wrong += sum(r["note"].startswith("WRONG") for r in rows if r["program"] == OURS)
            left = options.seconds - (time.monotonic() - began)
            print(f"[{n + 1}/{len(cells)}] {cell}: " + ", ".join(f"{r['program']} {value(r)}" for r in rows) + f"; {left:.0f} s left", flush=True)
    print(f"\n{about}")
    print("\n".join(table(done)))
    if wrong:
        print(f"{wrong} WRONG results of {OURS}")
    return 1 if wrong or not done else 0


if __name__ == "__main__":
    sys.exit(main())
