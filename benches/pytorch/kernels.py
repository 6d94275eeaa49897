"""Times PyTorch's single kernels at the shapes of benches/cases.json: linear, conv2d, attention, group norm + SiLU, AdamW.

    python benches/pytorch/kernels.py --device cuda --out out/bench/pytorch-kernels.json [--cases conv2d] [--modes eager,tf32]

Here fp16 means float16 tensors (in unet.py: autocast). Rates count what the operation needs, whatever the library does:
2mkn for a product, twice that for its backward; attention's backward 2.5 times its forward, as it is counted for flash attention.
"""

import torch
import torch.nn.functional as F

import common
import unet


def matmul(case, random, mode):
    m, k, n = case["m"], case["k"], case["n"]
    x, w = random(m, k), random(n, k)
    return F.linear, [x, w], [2 * m * k * n, 4 * m * k * n], 4 * (m * k + k * n + m * n)


def conv2d(case, random, mode):
    batch, size, cin, cout, kernel, stride = (case[name] for name in ("batch", "size", "cin", "cout", "kernel", "stride"))
    x, w = random(batch, cin, size, size), random(cout, cin, kernel, kernel)
    if "channels_last" in mode:
        x, w = (t.to(memory_format=torch.channels_last) for t in (x, w))

    def run(x, w):
        return F.conv2d(x, w, stride=stride, padding=kernel // 2)

    out = batch * cout * (-(-size // stride)) ** 2
    flop = 2 * out * cin * kernel * kernel
    return run, [x, w], [flop, 2 * flop], 4 * (x.numel() + w.numel() + out)


def attention(case, random, mode):
    batch, tokens, heads, size = case["batch"], case["tokens"], case["heads"], case["size"]
    # As a model has them: heads taken out of [batch, tokens, heads * size] by a view.
    q, k, v = (random(batch, tokens, heads, size) for _ in range(3))

    def run(q, k, v):
        return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

    flop = 4 * batch * heads * tokens * tokens * size
    return run, [q, k, v], [flop, flop * 5 // 2], 4 * 4 * q.numel()


def group_norm(case, random, mode):
    batch, size, channels, groups = case["batch"], case["size"], case["channels"], case["groups"]
    x, weight, bias = random(batch, channels, size, size), random(channels), random(channels)
    if "channels_last" in mode:
        x = x.to(memory_format=torch.channels_last)

    def run(x, weight, bias):
        return F.silu(F.group_norm(x, groups, weight, bias, eps=1e-6))

    return run, [x, weight, bias], [0, 0], 4 * 2 * x.numel()


# Builder, and the words that change something for it.
OPERATIONS = {
    "matmul": (matmul, {"compiled", "tf32", "fp16"}),
    "conv2d": (conv2d, {"compiled", "tf32", "fp16", "channels_last"}),
    "attention": (attention, {"compiled", "tf32", "fp16"}),
    "group_norm": (group_norm, {"compiled", "fp16", "channels_last"}),
}


def operation(report, chosen, case, mode):
    common.apply(mode)
    generator = torch.Generator(chosen.device).manual_seed(0)
    dtype = torch.float16 if "fp16" in mode else torch.float32

    def random(*shape):
        return torch.randn(*shape, device=chosen.device, generator=generator).to(dtype)

    run, inputs, (forward, backward), byte = OPERATIONS[case["kind"]][0](case, random, mode)
    run, variant = common.compiled(run, mode), "+".join(mode)
    byte = byte * dtype.itemsize // 4
    with torch.no_grad():
        dy = torch.randn_like(run(*inputs))  # in the output's own memory format
        report.time(case, "forward", variant, lambda: run(*inputs), forward, byte)
    inputs = [t.requires_grad_() for t in inputs]
    if "compiled" not in mode:  # a compiled graph gives its saved tensors away and cannot run backward twice
        y = run(*inputs)
        report.time(case, "backward", variant, lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True), backward)
    report.time(case, "forward+backward", variant, lambda: torch.autograd.grad(run(*inputs), inputs, dy), forward + backward)


def adamw(report, chosen, case):
    """Variants: PyTorch's implementations; `+ema` does the moving average too, as deme's kernel does."""
    common.apply([])
    shapes, note = unet.shapes(case["count"])

    def tensors():
        return [torch.randn(shape, device=chosen.device) for shape in shapes]

    for implementation in ("foreach", "fused", "compiled"):
        if implementation == "compiled" and not any("compiled" in mode for mode in chosen.modes):
            continue
        parameters = tensors()
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        switch = "fused" if implementation == "fused" else "foreach"
        # A compiled step wants its step count on the device.
        capturable = implementation == "compiled" and chosen.device == "cuda"
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, capturable=capturable, **{switch: True})
        step = torch.compile(optimizer.step) if implementation == "compiled" else optimizer.step
        report.time(case, "run", implementation, step, byte=28 * case["count"], note=f"no EMA; {note}")
        if implementation != "fused":
            continue
        average = tensors()

        def with_average():
            optimizer.step()
            torch._foreach_lerp_(average, [p.data for p in parameters], 1e-4)

        report.time(case, "run", "fused+ema", with_average, byte=36 * case["count"], note=f"with EMA; {note}")


def main():
    chosen = common.options(__doc__)
    report = common.Report(chosen)
    for case in common.cases(chosen, OPERATIONS):
        for mode in common.modes(chosen, OPERATIONS[case["kind"]][1]):
            operation(report, chosen, case, mode)
    for case in common.cases(chosen, ["adamw"]):
        adamw(report, chosen, case)
    report.done()


if __name__ == "__main__":
    main()
