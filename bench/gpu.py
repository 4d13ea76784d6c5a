"""Times the CUDA kernels next to PyTorch's SDPA backends, in one process on one GPU; bench/run_gpu.sh builds and calls it.

    python3 bench/gpu.py --libraries build/gpu [--seconds 240] [--csv FILE] [--commit ID] [--filter TEXT] [--dry-run]
    python3 bench/gpu.py --stand-in     the PTX machine instead of a GPU, which runs small cells and times nothing

HOW IT MEASURES
    One cell (pass, head dim, length, mask) at a time: first every program computes it, and is compared with attention in
    double on one head, and with the others on all. What is wrong is reported and not timed. Then the programs take turns:
    one call each, round after round, for the cell's share of the time left, 5 rounds at least. Before each call a buffer
    of twice the L2 is overwritten, so inputs come from memory, and the GPU is kept busy while the CPU queues the call, so
    launches are not counted. CUDA events; the median, with quartiles. The clock of the SMs and the power are those that
    nvidia-smi saw meanwhile, medians: the programs take turns, so they have the same.
    forward: O and LSE. backward: dQ, dK, dV from O, LSE and dO, all kernels of it. decode: few queries of each sequence.
    e4m3: O from codes; Q, K and V were quantised before, with a factor a head. PyTorch has none.
    zeros: Q, K and V are 0, which costs less power: a card that is faster then was short of power, not of clocks.
UNITS
    TFLOP/s: forward 4 b h s s d, backward 2.5 times that; half of both under a causal mask.
    GB/s of decode: K and V once. Share: of a copy of 1 GiB in the same run, which counts what is read and what is written.
    x best: the time of the fastest peer over ours.
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
import threading
import time

DEVICE = "cuda"
FORWARD, BACKWARD, DECODE = 1, 2, 4  # FA_FORWARD ..
PASSES = {"forward": FORWARD, "backward": BACKWARD, "decode": DECODE}
OURS = "flashattn"
PEERS = {"torch-flash": "FLASH_ATTENTION", "torch-cudnn": "CUDNN_ATTENTION", "torch-efficient": "EFFICIENT_ATTENTION"}
# || o - exact || / || exact ||; rounding to bf16 alone makes 0.002 to 0.005, codes of 4 significant bits 0.04 to 0.05
TOLERANCE = {"bf16": 0.01, "e4m3": 0.1}
MIN_ROUNDS, MAX_ROUNDS = 5, 31
BUSY = 1_000_000  # clocks: half a millisecond in which the CPU queues the call


class Cell:
    """One problem: (batch, heads, seq, dim) tensors in bf16; dtype e4m3: quantised before."""

    def __init__(self, what, dim, batch, heads, heads_k, seqlen_q, seqlen_k, causal, dtype="bf16", data="random"):
        self.what, self.dim, self.batch, self.heads, self.heads_k = what, dim, batch, heads, heads_k
        self.seqlen_q, self.seqlen_k, self.causal, self.dtype, self.data = seqlen_q, seqlen_k, causal, dtype, data

    def __str__(self):
        mask = "" if self.what == "decode" else " causal" if self.causal else " full"
        heads = f"{self.heads}" if self.heads == self.heads_k else f"{self.heads}/{self.heads_k}"
        kind = (" e4m3" if self.dtype == "e4m3" else "") + (" zeros" if self.data == "zeros" else "")
        return f"{self.what} d{self.dim} b{self.batch} h{heads} {self.seqlen_q}x{self.seqlen_k}{mask}{kind}"

    def flops(self):
        pairs = self.seqlen_q * self.seqlen_k / (2 if self.causal else 1)
        return 4 * self.batch * self.heads * pairs * self.dim * (2.5 if self.what == "backward" else 1)

    def bytes(self):
        return 2 * 2 * self.batch * self.heads_k * self.seqlen_k * self.dim


def all_cells():
    """16 k tokens and a width of 2048 in each; what was promised first comes first."""

    def square(what, dim, seqlen, causal, **kind):
        return Cell(what, dim, 16384 // seqlen, 2048 // dim, 2048 // dim, seqlen, seqlen, causal, **kind)

    for dim in (128, 64, 256):
        for seqlen in (1024, 4096, 8192, 16384):
            for causal in (False, True):
                yield square("forward", dim, seqlen, causal)
    for dim in (128, 64, 256):
        for seqlen in (4096, 16384):
            for causal in (False, True):
                yield square("forward", dim, seqlen, causal, dtype="e4m3")
    for dtype in ("bf16", "e4m3"):
        yield square("forward", 128, 16384, False, dtype=dtype, data="zeros")
    for dim in (128, 64, 256):
        yield Cell("decode", dim, 64, 32, 8, 1, 8192, False)
        for rows in (32, 64):  # of a head of K and V: queries times heads of the group
            yield Cell("decode", dim, 32, 32, 8, rows // 4, 8192, False)
    for keys in (8192, 32768, 131072):
        yield Cell("decode", 128, 1, 32, 8, 1, keys, False)
    for dim in (128, 64, 256):
        for seqlen in (1024, 4096, 16384):
            for causal in (False, True):
                yield square("backward", dim, seqlen, causal)


def small_cells():
    """For the PTX machine: each kernel once."""
    for dim in (64, 128, 256):
        for dtype in ("bf16", "e4m3"):
            yield Cell("forward", dim, 1, 2, 2, 160, 160, dim != 64, dtype=dtype)
        yield Cell("backward", dim, 1, 2, 2, 96, 96, True)
        for rows in (4, 64):
            yield Cell("decode", dim, 1, 4, 1, rows // 4, 320, False)
    for dtype in ("bf16", "e4m3"):
        yield Cell("forward", 128, 1, 2, 2, 128, 128, False, dtype=dtype, data="zeros")


# What is aimed at, as the least ratio to the fastest peer, or TFLOP/s
TARGETS = [
    ("forward, 64 dims", lambda c: c.what == "forward" and c.dim == 64 and not c.causal, 1.25, "ratio"),
    ("forward, 128 dims", lambda c: c.what == "forward" and c.dim == 128 and not c.causal, 1.03, "ratio"),
    ("forward, 256 dims", lambda c: c.what == "forward" and c.dim == 256 and not c.causal, 1.2, "ratio"),
    ("forward, causal, up to 8192", lambda c: c.what == "forward" and c.causal and c.seqlen_q <= 8192, 1.1, "ratio"),
    ("e4m3, 128 dims, 16384", lambda c: c.dtype == "e4m3" and c.dim == 128 and c.seqlen_q == 16384 and not c.causal, 1150, "tflops"),
]


def cell_seconds(left, cells_left):
    """The share of the next cell in the time that is left."""
    return max(0.0, left) / max(1, cells_left)


# ---- our kernels ----


class Problem(ctypes.Structure):  # bench_problem of gpu_kernels.cu
    _fields_ = (
        [(n, ctypes.c_int32) for n in ("head_dim", "fp8", "pass_", "batch", "heads", "heads_k", "seqlen_q", "seqlen_k", "causal")]
        + [(n, ctypes.c_void_p) for n in ("q", "k", "v", "d_o", "o", "lse", "dq", "dk", "dv")]
        + [("codes", ctypes.c_void_p * 3), ("factors", ctypes.c_void_p * 3)]
        + [("workspace", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("stream", ctypes.c_void_p)]
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

    def prepare(self, torch, cell, t, machine):
        """A call that computes the cell, and its results by name."""
        if cell.dim not in self.of:
            raise RuntimeError("not compiled in")
        lib, out = self.of[cell.dim], {"o": torch.empty_like(t["q"])}
        out["lse"] = torch.empty(t["q"].shape[:3], dtype=torch.float32, device=DEVICE)
        codes = [torch.empty(t[n].shape, dtype=torch.uint8, device=DEVICE) for n in ("q", "k", "v")] if cell.dtype == "e4m3" else []
        factors = [torch.empty(t[n].shape[:2], dtype=torch.float32, device=DEVICE) for n in ("q", "k", "v")][: len(codes)]
        machine.show(lib, *t.values(), *out.values(), *codes, *factors)
        keep = [out, codes, factors]  # what the call writes, workspaces and structs live as long as it does

        def bind(what, function):
            p = Problem(cell.dim, bool(codes), PASSES[what], cell.batch, cell.heads, cell.heads_k, cell.seqlen_q, cell.seqlen_k, cell.causal)
            for name in ("q", "k", "v"):
                setattr(p, name, t[name].data_ptr())
            for name, x in out.items():
                setattr(p, name, x.data_ptr())
            for n, (code, factor) in enumerate(zip(codes, factors)):
                p.codes[n], p.factors[n] = code.data_ptr(), factor.data_ptr()
            if what == "backward":
                p.d_o = t["d_o"].data_ptr()
            p.stream = machine.stream()
            p.bytes = lib.bench_workspace(ctypes.byref(p))
            workspace = torch.zeros(max(1, p.bytes), dtype=torch.uint8, device=DEVICE)
            machine.show(lib, workspace)
            p.workspace = workspace.data_ptr() if p.bytes else None
            message = ctypes.create_string_buffer(300)
            keep.append((p, workspace, message))

            def call():
                if function(ctypes.byref(p), message, ctypes.c_uint64(300)) != 0:
                    raise RuntimeError(message.value.decode())

            return call

        if codes:
            bind(cell.what, lib.bench_quantize)()
        if cell.what == "backward":
            bind("forward", lib.bench_run)()
            for name, x in (("dq", "q"), ("dk", "k"), ("dv", "v")):
                out[name] = torch.empty_like(t[x])
            machine.show(lib, out["dq"], out["dk"], out["dv"])
        call = bind(cell.what, lib.bench_run)
        machine.wait()
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
    """|| got - want || / || want ||, of zeros || got ||; infinity if that is NaN."""
    norm = want.double().norm()
    error = ((got.double() - want.double()).norm() / (norm if norm else 1)).item()
    return error if error == error else math.inf


# ---- time ----


class Card:
    """The GPU: its clock and power, ten times a second, by nvidia-smi; and the times of calls."""

    def __init__(self, torch):
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self.torch, self.dirt = torch, torch.empty(max(2 * l2, 1 << 26), dtype=torch.uint8, device=DEVICE)
        self.seen = []  # (MHz, W)
        query = ["nvidia-smi", "-i", "0", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self.smi = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self.read, daemon=True).start()
        except OSError:
            self.smi = None

    def read(self):
        for line in self.smi.stdout:
            try:
                mhz, watts = map(float, line.split(","))
            except ValueError:  # "[N/A]"
                continue
            self.seen.append((mhz, watts))

    def close(self):
        if self.smi:
            self.smi.kill()

    def show(self, lib, *tensors):
        """The library may read and write them: it may anyway."""

    def stream(self):
        return self.torch.cuda.current_stream().cuda_stream

    def wait(self):
        self.torch.cuda.synchronize()

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
        """Milliseconds of each call, all in turn, at least MIN_ROUNDS of them; MHz and W meanwhile, or None."""
        times, until = {name: [] for name in calls}, time.monotonic() + seconds
        for call in calls.values():  # warm
            call()
        self.wait()
        first = len(self.seen)
        for n in range(MAX_ROUNDS):
            events = {name: self.queue(call) for name, call in calls.items()}
            self.wait()
            for name, (begin, end) in events.items():
                times[name].append(begin.elapsed_time(end))
            if n + 1 >= MIN_ROUNDS and time.monotonic() > until:
                break
        seen = self.seen[first:]
        return times, tuple(statistics.median(x) for x in zip(*seen)) if seen else None


class StandIn:
    """The PTX machine: tensors of the host are shown to it, one call is made, nothing is timed."""

    def __init__(self):
        self.shown = []  # what it knows must not be freed

    def close(self):
        pass

    def show(self, lib, *tensors):
        for x in tensors:
            if lib.bench_register(ctypes.c_void_p(x.data_ptr()), ctypes.c_uint64(x.numel() * x.element_size())) != 0:
                raise RuntimeError("cudaHostRegister failed")
            self.shown.append(x)

    def stream(self):
        return None

    def wait(self):
        pass  # it runs a kernel where it is launched

    def rounds(self, calls, seconds):
        for call in calls.values():
            call()
        return {name: [1.0] * MIN_ROUNDS for name in calls}, None


def copy_rate(torch, machine, size):
    """GB/s, read and written, of a copy."""
    x, y = (torch.empty(size, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    x.random_()
    times, _ = machine.rounds({"copy": lambda: y.copy_(x)}, 0.5)
    return 2 * size / statistics.median(times["copy"]) / 1e6


# ---- one cell ----


def run_cell(torch, cell, library, machine, seconds, copy, base):
    """Rows of the CSV. A program that fails or is wrong has a note and no time."""
    began = time.monotonic()
    generator = torch.Generator(device=DEVICE).manual_seed(1)

    def random(heads, rows):
        shape = (cell.batch, heads, rows, cell.dim)
        x = torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.float32).to(torch.bfloat16)
        return x.zero_() if cell.data == "zeros" else x

    t = {"q": random(cell.heads, cell.seqlen_q), "k": random(cell.heads_k, cell.seqlen_k), "v": random(cell.heads_k, cell.seqlen_k)}
    if cell.what == "backward":
        t["d_o"] = random(cell.heads, cell.seqlen_q)
    want = exact(torch, cell, t)
    calls, rows, results = {}, {}, {}
    tolerance = TOLERANCE[cell.dtype]
    for name in [OURS, *(PEERS if cell.dtype == "bf16" else [])]:
        row = rows[name] = dict(base, program=name, note="", **cell_columns(cell))
        try:
            if name == OURS:
                call, out = library.prepare(torch, cell, t, machine)
            else:
                call, out = prepare_peer(torch, cell, t, PEERS[name])
            machine.wait()
        except Exception as e:  # a backend that has no kernel for it
            if "CUDA error" in str(e):
                raise  # the context is gone, and with it all that follows
            row["note"] = "none: " + (str(e).strip().splitlines() or [type(e).__name__])[0][:120].replace(",", ";")
            continue
        error = max(relative(out[n][-1, -1], w) for n, w in want.items())
        row["error"] = f"{error:.2e}"
        if not error <= tolerance:
            row["note"] = "WRONG"
            continue
        results[name] = {n: out[n] for n in want}
        calls[name] = call
    for name, out in results.items():  # all heads, next to the first that is right
        first = next(iter(results))
        difference = max(relative(out[n], results[first][n]) for n in want)
        rows[name]["difference"] = f"{difference:.2e}"
        if not difference <= 2 * tolerance:
            for x in (name, first):  # who of the two is not known
                rows[x]["note"] = f"WRONG: {name} and {first} differ in heads that are not compared with double"
                calls.pop(x, None)
    del results, want
    if calls:
        times, card = machine.rounds(calls, max(0.0, seconds - (time.monotonic() - began)))
        for name, ms in times.items():
            q1, median, q3 = statistics.quantiles(ms, n=4, method="inclusive")
            row = rows[name]
            row.update(median_us=f"{median * 1e3:.2f}", q1_us=f"{q1 * 1e3:.2f}", q3_us=f"{q3 * 1e3:.2f}", rounds=len(ms))
            if cell.what == "decode":
                row.update(gbs=f"{cell.bytes() / median / 1e6:.0f}", share_of_copy=f"{cell.bytes() / median / 1e6 / copy:.3f}")
            else:
                row["tflops"] = f"{cell.flops() / median / 1e9:.1f}"
            if card:
                row.update(sm_mhz=f"{card[0]:.0f}", watts=f"{card[1]:.0f}")
    return list(rows.values())


COLUMNS = ("date commit card driver cuda torch cudnn copy_gbs pass dtype data head_dim batch heads heads_k seqlen_q seqlen_k mask "
           "program median_us q1_us q3_us rounds tflops gbs share_of_copy sm_mhz watts error difference note").split()


def cell_columns(cell):
    return {"pass": cell.what, "dtype": cell.dtype, "data": cell.data, "head_dim": cell.dim, "batch": cell.batch, "heads": cell.heads, "heads_k": cell.heads_k,
            "seqlen_q": cell.seqlen_q, "seqlen_k": cell.seqlen_k, "mask": "causal" if cell.causal else "full"}


def value(row):
    """What stands in the table."""
    if row.get("tflops"):
        return row["tflops"]
    if row.get("gbs"):
        return f"{row['gbs']} ({100 * float(row['share_of_copy']):.0f}%)"
    return row["note"].split(":")[0] or "-"


def ratio(rows):
    """The time of the fastest peer over ours, or None."""
    us = {r["program"]: float(r["median_us"]) for r in rows if r.get("median_us")}
    peers = [t for name, t in us.items() if name != OURS]
    return min(peers) / us[OURS] if peers and OURS in us else None


def table(cells):
    lines = [f"{'TFLOP/s; decode GB/s (of copy)':42}" + "".join(f"{n:>16}" for n in [OURS, *PEERS]) + f"{'x best':>8}{'MHz':>6}{'W':>5}"]
    for cell, rows in cells:
        of, best = {r["program"]: r for r in rows}, ratio(rows)
        lines.append(f"{str(cell):42}" + "".join(f"{value(of[n]) if n in of else '-':>16}" for n in [OURS, *PEERS])
                     + (f"{best:8.2f}" if best else f"{'-':>8}") + f"{rows[0].get('sm_mhz', '-'):>6}{rows[0].get('watts', '-'):>5}")
    return lines


def targets(cells):
    """A line for each: its cells' geometric mean and the worst of them."""
    lines = []
    for name, counts, least, kind in TARGETS:
        of = [rows for cell, rows in cells if counts(cell) and cell.data == "random" and (cell.dtype == "e4m3") == (kind == "tflops")]
        got = [ratio(rows) if kind == "ratio" else float(rows[0].get("tflops") or 0) for rows in of]
        got = [x for x in got if x]
        if not got:
            lines.append(f"{name:30} at least {least:g}: not measured")
            continue
        mean = math.exp(statistics.fmean(map(math.log, got)))
        unit = "x the best peer" if kind == "ratio" else "TFLOP/s"
        lines.append(f"{name:30} at least {least:g} {unit}: {mean:.4g}, worst {min(got):.4g} of {len(got)} cells{'' if mean >= least else ', MISSED'}")
    return lines


def main():
    global DEVICE
    parser = argparse.ArgumentParser()
    parser.add_argument("--libraries", default="build/gpu")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--csv", default="build/bench/gpu.csv")
    parser.add_argument("--commit", default="")
    parser.add_argument("--filter", default="")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and their time")
    parser.add_argument("--stand-in", action="store_true", help="no GPU but the PTX machine, in the libraries: small cells, no times")
    options = parser.parse_args()
    began = time.monotonic()
    cells = [c for c in (small_cells() if options.stand_in else all_cells()) if options.filter in str(c)]
    if options.dry_run:
        for cell in cells:
            size = f"{cell.bytes() / 1e9:.2f} GB" if cell.what == "decode" else f"{cell.flops() / 1e12:.2f} TFLOP"
            print(f"{str(cell):42} {size:>12} {cell_seconds(options.seconds, len(cells)):6.1f} s")
        print(f"{len(cells)} cells, {options.seconds:.0f} s")
        return 0
    import torch

    library = Library(options.libraries)
    base = {"date": datetime.date.today().isoformat(), "commit": options.commit, "card": "PTX machine, not timed",
            "driver": "", "cuda": torch.version.cuda, "torch": torch.__version__, "cudnn": ""}
    if options.stand_in:
        DEVICE, machine = "cpu", StandIn()
    elif not torch.cuda.is_available():
        print("gpu.py: PyTorch sees no GPU: skipped")
        return 77
    else:
        machine = Card(torch)
        if torch.cuda.get_device_capability() < (8, 9):
            cells = [c for c in cells if c.dtype != "e4m3"]
        base["driver"] = subprocess.run(["nvidia-smi", "-i", "0", "--query-gpu=driver_version", "--format=csv,noheader"],
                                        capture_output=True, text=True, check=False).stdout.strip()
        base.update(card=torch.cuda.get_device_name(0), cudnn=torch.backends.cudnn.version())
    copy = copy_rate(torch, machine, 1 << 20 if options.stand_in else 1 << 30)
    base["copy_gbs"] = f"{copy:.0f}"
    about = (f"{base['card']}, driver {base['driver']}, CUDA {base['cuda']}, PyTorch {base['torch']}, cuDNN {base['cudnn']}, "
             f"copy {copy:.0f} GB/s")
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
                rows = run_cell(torch, cell, library, machine, cell_seconds(left, len(cells) - n), copy, base)
            except torch.cuda.OutOfMemoryError:
                print(f"{cell}: not enough memory", flush=True)
                torch.cuda.empty_cache()
                continue
            writer.writerows(rows)
            file.flush()
            done.append((cell, rows))
            wrong += sum(r["note"] != "" for r in rows if r["program"] == OURS)
            left = options.seconds - (time.monotonic() - began)
            shown = ", ".join(f"{r['program']} {r['error'] if options.stand_in and not r['note'] else value(r)}" for r in rows)
            print(f"[{n + 1}/{len(cells)}] {cell}: {shown}; {left:.0f} s left", flush=True)
    if not options.stand_in:
        print("\n".join(["", about, *table(done), *targets(done)]))
    machine.close()
    if wrong:
        print(f"{OURS} has no result, or a wrong one, in {wrong} cells: see their notes in {options.csv}")
    return 1 if wrong or not done else 0


if __name__ == "__main__":
    sys.exit(main())
