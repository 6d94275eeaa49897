//! The tables beta_t of diffusers' schedulers, with its float32 roundings, so that alpha_bar agrees to the last bits.
//! Called by `Schedule::from_json` alone.

/// beta_schedule names that diffusers' DDPMScheduler knows and deme supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredCosCapV2,
    Sigmoid,
}

impl BetaSchedule {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "linear" => Self::Linear,
            "scaled_linear" => Self::ScaledLinear,
            "squaredcos_cap_v2" => Self::SquaredCosCapV2,
            "sigmoid" => Self::Sigmoid,
            _ => return None,
        })
    }

    /// beta_0 .. beta_{T-1}. The cosine schedule (Nichol & Dhariwal 2021) does not look at `start` and `end`.
    pub(super) fn betas(self, start: f64, end: f64, timesteps: usize) -> Vec<f32> {
        match self {
            Self::Linear => linspace(start as f32, end as f32, timesteps),
            Self::ScaledLinear => linspace(start.sqrt() as f32, end.sqrt() as f32, timesteps)
                .into_iter()
                .map(|root| root * root)
                .collect(),
            Self::SquaredCosCapV2 => (0..timesteps).map(|i| cosine_beta(i, timesteps)).collect(),
            Self::Sigmoid => linspace(-6.0, 6.0, timesteps)
                .into_iter()
                .map(|x| (1.0 / (1.0 + (-f64::from(x)).exp())) as f32 * (end - start) as f32 + start as f32)
                .collect(),
        }
    }
}

/// torch.linspace in float32: both halves are counted from their own end.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    let at = |i| match i < count / 2 {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((count - 1 - i) as f32, end),
    };
    (0..count).map(at).collect()
}

fn cosine_beta(i: usize, timesteps: usize) -> f32 {
    let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
    let at = |i: usize| alpha_bar(i as f64 / timesteps as f64);
    (1.0 - at(i + 1) / at(i)).min(0.999) as f32
}

/// alpha_bar_t = prod_{s <= t} (1 - beta_s): float32 factors, an f64 product, float32 results, as torch.cumprod does.
pub(super) fn alpha_bar(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0;
    let mut next = |beta: &f32| {
        product *= f64::from(1.0 - beta);
        product as f32
    };
    betas.iter().map(&mut next).collect()
}

/// Zero terminal signal-to-noise ratio (Lin et al. 2023, algorithm 1): shifts and scales sqrt(alpha_bar) so that its
/// last value is 0 and its first stays.
pub(super) fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let mut root: Vec<f32> = alpha_bar(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (root.first(), root.last()) else { return Vec::new() };
    let scale = first / (first - last);
    for r in &mut root {
        *r = (*r - last) * scale;
    }
    let squares: Vec<f32> = root.iter().map(|r| r * r).collect();
    (0..squares.len()).map(|t| 1.0 - if t == 0 { squares[0] } else { squares[t] / squares[t - 1] }).collect()
}
