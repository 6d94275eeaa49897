"""Times model merging in PyTorch: base + sum of w_i (theta_i - base), float32, for the parameter counts of benches/cases.json.

    python benches/pytorch/merge.py --device cuda --out out/bench/pytorch-merge.json

Variants: `stream` (a tensor at a time, in place), `foreach` (all tensors in one call a term), `compiled` (torch.compile of a tensor's sum,
on each model as one flat tensor: one pass over memory). They are held to one another before they are timed.
The rate counts every model read once and the result written once.
"""

import torch

import common
import unet


def stream(out, base, experts, weights):
    for i, target in enumerate(out):
        torch.mul(base[i], 1 - sum(weights), out=target)
        for expert, weight in zip(experts, weights, strict=True):
            target.add_(expert[i], alpha=weight)


def foreach(out, base, experts, weights):
    torch._foreach_copy_(out, base)
    torch._foreach_mul_(out, 1 - sum(weights))
    for expert, weight in zip(experts, weights, strict=True):
        torch._foreach_add_(out, expert, alpha=weight)


def fused(out, base, experts, weights):
    total = base
    for expert, weight in zip(experts, weights, strict=True):
        total = total + weight * (expert - base)
    out.copy_(total)


def main():
    chosen = common.options(__doc__)
    report = common.Report(chosen)
    for case in common.cases(chosen, ["merge"]):
        common.apply([])
        torch.manual_seed(0)
        shapes, note = unet.shapes(case["count"])
        weights = [0.1 + 0.05 * i for i in range(case["experts"])]
        flat = [torch.randn(case["count"], device=chosen.device) for _ in range(case["experts"] + 2)]
        # The same memory, as a model's tensors.
        sizes = [torch.Size(shape).numel() for shape in shapes]
        parts = [[part.view(shape) for part, shape in zip(model.split(sizes), shapes, strict=True)] for model in flat]
        variants = {"stream": (stream, parts), "foreach": (foreach, parts)}
        if any("compiled" in mode for mode in chosen.modes):
            variants["compiled"] = (torch.compile(fused), flat)
        first = None
        for name, (merge, models) in variants.items():
            call = lambda merge=merge, models=models: merge(models[0], models[1], models[2:], weights)
            call()
            result = flat[0].clone()
            first = result if first is None else first
            torch.testing.assert_close(result, first, rtol=1e-5, atol=1e-5)
            byte = 4 * case["count"] * (case["experts"] + 2)
            report.time(case, "run", name, call, byte=byte, note="one flat tensor a model" if name == "compiled" else note)
    report.done()


if __name__ == "__main__":
    main()
