"""PyTorch's scaled_dot_product_attention as a peer of bench_cpu; the protocol is described in bench.h."""
import sys
import time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
SAMPLES = 24


def random_heads(heads, rows, dim, dtype, token_major):
    """(1, heads, rows, dim) in memory, or as a view of (1, rows, heads, dim)."""
    shape = (1, rows, heads, dim) if token_major else (1, heads, rows, dim)
    x = torch.randn(shape, dtype=torch.float32).to(dtype)
    return x.transpose(1, 2) if token_major else x


def max_error(o, q, k, v, bias, causal):
    """Max abs error against attention in double, over sampled rows of all heads; 1e30 for NaN."""
    rows, keys, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    i = torch.tensor([x * (rows - 1) // (SAMPLES - 1) for x in range(SAMPLES)])
    worst = 0.0
    for h in range(0, q.shape[1], 5):
        s = q[0, h, i].double() @ k[0, h // group].double().T / q.shape[3] ** 0.5
        if bias is not None:
            s += bias[i].double()
        if causal:
            s.masked_fill_(torch.arange(keys)[None, :] > i[:, None] + keys - rows, float("-inf"))
        want = torch.softmax(s, -1) @ v[0, h // group].double()
        error = (o[0, h, i].double() - want).abs().max().item()
        worst = max(worst, error if error == error else 1e30)
    return worst


def prepare(dtype, d, dv, hq, hk, sq, sk, causal, feature):
    """The call to time and its error, or the reason to skip it."""
    if dtype not in DTYPES:
        return None, "no fp8 or int8 attention on CPU"
    if feature in ("features", "unaligned", "decode-paged"):
        return None, "not of interest here"
    if feature.startswith("backward"):
        return prepare_backward(DTYPES[dtype], d, hq, sq, bool(causal))
    if causal and sq != sk:
        return None, "causal is aligned top-left"
    t = DTYPES[dtype]
    token_major = feature in ("token-major", "decode-token")
    q = random_heads(hq, sq, d, t, token_major)
    k = random_heads(hk, sk, d, t, token_major)
    v = random_heads(hk, sk, dv, t, token_major)
    bias = torch.randn(sq, sk).to(t) if feature == "bias" else None
    options = {"attn_mask": bias, "is_causal": bool(causal)}
    if hk != hq:
        options["enable_gqa"] = True

    def call():
        return F.scaled_dot_product_attention(q, k, v, **options)

    return call, max_error(call(), q, k, v, bias, causal)


def prepare_backward(dtype, d, heads, rows, causal):
    """The backward pass alone, and its error against autograd in double (up to 2048 rows, else 0)."""
    with torch.inference_mode(False), torch.enable_grad():
        x = [torch.randn((1, heads, rows, d)).to(dtype).requires_grad_() for _ in range(3)]
        o = F.scaled_dot_product_attention(*x, is_causal=causal)
        d_o = torch.randn(o.shape).to(dtype)

        def call():
            with torch.inference_mode(False):
                return torch.autograd.grad(o, x, d_o, retain_graph=True)

        error = 0.0
        if rows <= 2048:
            exact = [t[:, :1].detach().double().requires_grad_() for t in x]
            s = exact[0] @ exact[1].transpose(2, 3) / d**0.5
            if causal:
                s = s.masked_fill(torch.ones(rows, rows, dtype=torch.bool).triu(1), float("-inf"))
            want = torch.autograd.grad(torch.softmax(s, -1) @ exact[2], exact, d_o[:, :1].double())
            for got, w in zip(call(), want):
                e = ((got[:, :1].double() - w).abs() / (1 + w.abs())).max().item()
                error = max(error, e if e == e else 1e30)
    return call, error


def main():
    torch.manual_seed(1)
    torch.set_num_threads(int(sys.argv[1]))
    print("hello torch", torch.__version__, torch.backends.cpu.get_cpu_capability(), flush=True)
    call = None
    with torch.inference_mode():
        for line in sys.stdin:
            word = line.split()
            if word[0] == "cell":
                call = None  # frees the tensors of the cell before
                numbers = [int(x) for x in word[2:9]]
                call, result = prepare(word[1], *numbers, word[9])
                print(f"ready {result:.3g}" if call else f"skip {result}", flush=True)
            elif word[0] == "run":
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(int(word[1])):
                    call()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                print(f"time {wall:.9f} {cpu:.9f}", flush=True)


main()
