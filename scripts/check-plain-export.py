"""Compares, in diffusers, a folder with channel projections and the same exported plain:

    deme merge --model BASE --experts ... --weights=... --out FULL
    deme merge --model BASE --experts ... --weights=... --export plain --out PLAIN
    python scripts/check-plain-export.py FULL PLAIN

Versions as in scripts/fixtures/requirements.txt. Both run in float64 from the files' float32 weights, the first with its projections in
hooks; for placement `foldable` the outputs differ by the rounding of the folded weights alone.
"""

import sys
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent / "fixtures"))
import projections  # noqa: E402  (beside the recorders)

PREFIX = "adapter_list."


def full(folder):
    """The UNet with hooks for the projections that its file has."""
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    model = UNet2DModel.from_config(UNet2DModel.load_config(folder / "unet"))
    adapters = {int(name.split(".")[1]): weights.pop(name).double() for name in list(weights) if name.startswith(PREFIX)}
    if any(".query." in name for name in weights):
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            weights = {name.replace(f".{old}.", f".{new}."): w for name, w in weights.items()}
    model.load_state_dict(weights)
    model = model.double().eval()
    projections.attach(model, adapters)
    return model, adapters


if __name__ == "__main__":
    before, adapters = full(Path(sys.argv[1]))
    # What any user of diffusers writes: unexpected or missing tensors would be reported here.
    after, report = UNet2DModel.from_pretrained(Path(sys.argv[2]) / "unet", output_loading_info=True)
    assert not any(report.values()), report
    after = after.double().eval()
    torch.manual_seed(0)
    size = before.config.sample_size
    x = torch.randn(2, before.config.in_channels, *([size, size] if isinstance(size, int) else size), dtype=torch.float64)
    identity = max((w.flatten(1) - torch.eye(w.shape[0])).abs().max().item() for w in adapters.values())
    print(f"{len(adapters)} projections, up to {identity:.3g} from the identity")
    with torch.no_grad():
        for t in (0, 250, 999):
            a, b = (model(x, torch.tensor([t, t])).sample for model in (before, after))
            print(f"t = {t}: largest difference {(a - b).abs().max():.2e}, largest output {a.abs().max():.3f}")
