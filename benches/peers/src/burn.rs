//! Times burn at the shapes of benches/cases.json, forward and forward with backward: `burn --out FILE.json [--cases FILTER]`.
//! Built plainly, burn's shaders are WGSL (variant `wgpu`); with `--features vulkan` they are SPIR-V (variant `vulkan`).

use burn::nn::GroupNormConfig;
use burn::tensor::activation::silu;
use burn::tensor::module::{attention, conv2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::wgpu::{WgpuBackend, wgpu::DeviceType};
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
use peers::{Case, Kind, Options, Report};
use std::error::Error;

const VARIANT: &str = if cfg!(feature = "vulkan") { "vulkan" } else { "wgpu" };

/// A tensor of any rank, so that one function holds all operations.
struct Operation {
    forward: Box<dyn Fn() -> Output>,
    variant: String,
    note: &'static str,
}

enum Output {
    Matrix(Tensor<2>),
    Image(Tensor<4>),
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// The case's operation on `device`; on one with autodiff every input wants its gradient.
fn operations(kind: Kind, device: &Device) -> Vec<Operation> {
    let leaf2 = |shape| if device.is_autodiff() { random(shape, device).require_grad() } else { random(shape, device) };
    let leaf4 = |shape| if device.is_autodiff() { random(shape, device).require_grad() } else { random(shape, device) };
    let one = |forward: Box<dyn Fn() -> Output>, note| vec![Operation { forward, variant: VARIANT.into(), note }];
    match kind {
        Kind::Matmul { m, k, n } => {
            let (x, w) = (leaf2([m, k]), leaf2([k, n]));
            one(Box::new(move || Output::Matrix(x.clone().matmul(w.clone()))), "")
        }
        Kind::Conv2d { batch, size, cin, cout, kernel, stride } => {
            let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1; 2], 1);
            // burn's kernels want channels last: an input that lies so is spared a copy, as behind another convolution.
            [false, true]
                .into_iter()
                .map(|last| {
                    let w = leaf4([cout, cin, kernel, kernel]);
                    let shape = if last { [batch, size, size, cin] } else { [batch, cin, size, size] };
                    let x = leaf4(shape);
                    let options = options.clone();
                    Operation {
                        forward: Box::new(move || {
                            // Each pass uses its graph up, so the permutation is part of it; it moves nothing.
                            let x = if last { x.clone().permute([0, 3, 1, 2]) } else { x.clone() };
                            Output::Image(conv2d(x, w.clone(), None, options.clone()))
                        }),
                        variant: format!("{VARIANT}{}", if last { "+channels_last" } else { "" }),
                        note: "",
                    }
                })
                .collect()
        }
        Kind::Attention { batch, tokens, heads, size } => {
            let [q, k, v] = [0; 3].map(|_| leaf4([batch, heads, tokens, size]));
            let run = move || Output::Image(attention(q.clone(), k.clone(), v.clone(), None, None, Default::default()));
            one(
                Box::new(run),
                if device.is_autodiff() { "burn's fallback: it has no attention with a gradient" } else { "" },
            )
        }
        Kind::GroupNorm { batch, size, channels, groups } => {
            let norm = GroupNormConfig::new(groups, channels).with_epsilon(1e-6).init(device);
            let x = leaf4([batch, channels, size, size]);
            one(Box::new(move || Output::Image(silu(norm.forward(x.clone())))), "")
        }
        Kind::Other => Vec::new(),
    }
}

fn time(report: &mut Report, case: &Case, device: &Device) -> Result<(), Box<dyn Error>> {
    for Operation { forward, variant, note } in operations(case.kind, device) {
        report.time(case, "forward", &variant, note, |runs| repeat(device, runs, &forward))?;
    }
    let tracked = device.clone().autodiff();
    for Operation { forward, variant, note } in operations(case.kind, &tracked) {
        let both = || match forward() {
            Output::Matrix(y) => y.backward(),
            Output::Image(y) => y.backward(),
        };
        report.time(case, "forward+backward", &variant, note, |runs| repeat(&tracked, runs, both))?;
    }
    Ok(())
}

/// Runs and waits. A result lives until its kernels are handed to the device: fusion would not write one that is dropped before.
fn repeat<T>(device: &Device, runs: usize, operation: impl Fn() -> T) {
    let check = |result: Result<(), _>| {
        if let Err(error) = result {
            panic!("{error:?}");
        }
    };
    for _ in 0..runs {
        let result = operation();
        check(device.flush());
        drop(result);
    }
    check(device.sync());
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let Some(case) = peers::case(&options)? else { return Ok(()) };
    let kind = if options.cpu { DeviceKind::Cpu } else { DeviceKind::DefaultDevice };
    let api = if cfg!(feature = "vulkan") { WgpuBackend::Vulkan } else { WgpuBackend::Auto };
    let (device, setup) = Device::wgpu_options().device_kind(kind).graphics_api(api).init_with_setup()?;
    let adapter = setup.adapter.get_info();
    if adapter.device_type == DeviceType::Cpu && case.heavy && !options.heavy {
        return Ok(());
    }
    let settings = serde_json::json!({
        "variant": VARIANT,
        "api": format!("{:?}", adapter.backend),
        "device": format!("{device:?}"),
        "fusion": true,
        "autotune": true,
        "seconds_per_row": options.seconds,
        "heavy": options.heavy,
    });
    let driver = format!("{} {}", adapter.driver, adapter.driver_info);
    let mut report = Report::new("burn", "0.22.1", adapter.name, driver, settings, &options)?;
    time(&mut report, &case, &device)
}
