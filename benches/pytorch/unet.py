"""Times diffusers' UNet2DModel in PyTorch: forward, one sampling step (DDIM), one training step.

    python benches/pytorch/unet.py --device cuda --out out/bench/pytorch-unet.json [--batch 1,4,16,64]

The configurations stand below; weights are random, nothing is downloaded. fp16 means autocast, with a gradient scaler in training.
train_step: noising, forward, MSE, backward, gradient clip at 1, fused AdamW, EMA of all weights. train_step+teacher: a frozen copy
runs too, and its output joins the loss, as in deme's finetuning. Rates count products and convolutions of one pass, by torch's own counter.
"""

import math

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import common

DDPM = {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "attention_head_dim": None}


def blocks(widths, attention, layers, size, groups):
    """A DDPM's configuration: `attention` names the levels, from the top, that have it."""
    kinds = ["Attn" if level in attention else "" for level in range(len(widths))]
    return DDPM | {
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds], "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "block_out_channels": widths, "layers_per_block": layers, "sample_size": size, "norm_num_groups": groups,
        "in_channels": 3, "out_channels": 3,
    }


CONFIGS = {
    "ddpm-cifar10": blocks([128, 256, 256, 256], [1], 2, 32, 32),  # google/ddpm-cifar10-32: 35,746,307 parameters
    "lsun-256": blocks([128, 128, 256, 256, 512, 512], [4], 2, 256, 32),  # google/ddpm-church-256: 113,673,219
    "emoji32": blocks([32, 64, 128], [1], 1, 32, 16),  # models/ddpm-emoji32
}


def build(config, device):
    from diffusers import UNet2DModel

    with torch.device(device):
        return UNet2DModel(**CONFIGS[config])


def shapes(count):
    """Shapes of `count` parameters: those of the configuration that has as many, else a million a tensor; and a note that says which."""
    try:
        for name in CONFIGS:
            found = [p.shape for p in build(name, "meta").parameters()]
            if sum(map(math.prod, found)) == count:
                return found, f"{name}: {len(found)} tensors"
    except ImportError:
        pass
    whole, rest = divmod(count, 1 << 20)
    return [[1 << 20]] * whole + [[rest]] * (rest > 0), "tensors of 2^20"


def flops(config, batch):
    """FLOPs of forward, and of forward and backward."""
    model, counts = build(config, "meta"), []
    size = CONFIGS[config]["sample_size"]
    for train in (False, True):
        x, t = torch.empty(batch, 3, size, size, device="meta"), torch.zeros(batch, dtype=torch.long, device="meta")
        with FlopCounterMode(display=False) as counter:
            y = model(x, t).sample
            if train:
                y.sum().backward()
        counts.append(counter.get_total_flops())
    return counts


def run(report, chosen, case, mode):
    common.apply(mode)
    torch.manual_seed(0)
    batch, device, variant = case["batch"], chosen.device, "+".join(mode)
    size = CONFIGS[case["config"]]["sample_size"]
    layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    model = build(case["config"], device).to(memory_format=layout)
    network = common.compiled(model, mode)
    x0 = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    forward_flop, train_flop = flops(case["config"], batch)
    half = "fp16" in mode

    def predict(network, x, t):
        with torch.autocast(device, torch.float16, enabled=half):
            return network(x, t, return_dict=False)[0]

    t = torch.full([batch], 500, device=device)
    # DDIM from 500 to 480, with the coefficients on the host: no wait for the device within a step.
    now, then = float(alpha_bar[500]), float(alpha_bar[480])
    of_x, of_noise = math.sqrt(then / now), math.sqrt(1 - then) - math.sqrt(then / now) * math.sqrt(1 - now)

    def begin():
        if "graphs" in mode:
            torch.compiler.cudagraph_mark_step_begin()

    def forward():
        begin()
        return predict(network, x0, t)

    def sample_step():
        begin()
        return of_x * x0 + of_noise * predict(network, x0, t).float()

    with torch.no_grad():
        report.time(case, "forward", variant, forward, forward_flop, images=batch)
        report.time(case, "sample_step", variant, sample_step, forward_flop, images=batch)

    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=half)
    of_clean, of_dirt = (f.float().to(device).view(-1, 1, 1, 1) for f in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))

    def train_step(teacher=None):
        begin()
        noise, when = torch.randn_like(x0), torch.randint(0, 1000, [batch], device=device)
        noisy = of_clean[when] * x0 + of_dirt[when] * noise
        output = predict(network, noisy, when).float()
        loss = F.mse_loss(output, noise)
        if teacher is not None:
            with torch.no_grad():
                kept = predict(teacher, noisy, when).float()
            loss = loss + F.mse_loss(output, kept)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.data for p in parameters], 1e-4)

    note = "fused AdamW, clip, EMA"
    report.time(case, "train_step", variant, train_step, train_flop, note=note, images=batch)
    teacher = common.compiled(build(case["config"], device).to(memory_format=layout).requires_grad_(False), mode)
    flop = train_flop + forward_flop
    report.time(case, "train_step+teacher", variant, lambda: train_step(teacher), flop, note=note + ", frozen teacher", images=batch)


def main():
    def batch(parser):
        parser.add_argument("--batch", metavar="N,N", help="these batch sizes of each configuration, instead of the cases' own")

    chosen = common.options(__doc__, batch)
    wanted = common.cases(chosen, ["unet"])
    if chosen.batch:
        configs = dict.fromkeys(case["config"] for case in wanted)
        wanted = [{"id": f"unet/{name}/b{batch}", "config": name, "batch": int(batch)} for name in configs for batch in chosen.batch.split(",")]
    report = common.Report(chosen)
    for case in wanted:
        if case["config"] not in CONFIGS:
            print(f"{case['id']}: left out: no configuration of that name in unet.py")
            continue
        for mode in common.modes(chosen, {"compiled", "graphs", "tf32", "fp16", "channels_last"}):
            run(report, chosen, case, mode)
    report.done()


if __name__ == "__main__":
    main()
