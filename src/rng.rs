//! Random numbers as a pure function of (seed, stream, index): Philox 4x32-10 (Salmon et al. 2011), no state to save.
//! Called by data order, timestep draws and tests; `shaders/shared/philox.wgsl` is the same function on the GPU.

/// What a stream of random numbers is for; the discriminant is the upper half of the 64-bit stream number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Random weights of tests and fixtures.
    Weights = 1,
    /// The starting noise x_T of sampling; index counts images.
    SampleStart = 2,
    /// Noise added by DDIM with eta > 0.
    SampleStep = 3,
    /// epsilon of training; index counts training samples.
    TrainNoise = 4,
    TrainTimestep = 5,
    /// The range/global coin of probabilistic sampling (eq. 6).
    TrainCoin = 6,
    DataOrder = 7,
    DataFlip = 8,
    EvalNoise = 9,
    EvalTimestep = 10,
    /// Subsets of pictures in the kernel distance.
    Subsets = 11,
    /// First weights of a network; index counts the elements of a tensor.
    Initial = 12,
    /// Which elements DARE drops; index counts a tensor's elements, the sub-stream experts.
    MergeDrop = 13,
    /// Random directions in the space of weights; the sub-stream is direction and tensor.
    Direction = 14,
    /// Where training images are cropped; index counts training samples.
    DataCrop = 15,
}

/// The 64-bit stream number of a purpose and a sub-stream (an expert, a step, a repetition).
pub fn stream(purpose: Purpose, sub: u32) -> u64 {
    (u64::from(purpose as u32) << 32) | u64::from(sub)
}

/// Four random words. Key = seed (low, high); counter = (index low, index high, stream low, stream high).
pub fn philox(seed: u64, stream: u64, index: u64) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9;
    const W1: u32 = 0xBB67_AE85;
    let mut c = [index as u32, (index >> 32) as u32, stream as u32, (stream >> 32) as u32];
    let mut k = [seed as u32, (seed >> 32) as u32];
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
        }
        let p0 = M0 * u64::from(c[0]);
        let p1 = M1 * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// Uniform in [0, 1), a multiple of 2^-24, exact in f32.
pub fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    f64::from(philox(seed, stream, index)[0] >> 8) * 2f64.powi(-24)
}

/// Uniform in [0, n) by multiplication (Lemire 2019, without rejection: the bias is below n * 2^-64).
pub fn below(seed: u64, stream: u64, index: u64, n: u64) -> u64 {
    let w = philox(seed, stream, index);
    let x = u64::from(w[0]) | (u64::from(w[1]) << 32);
    ((u128::from(x) * u128::from(n)) >> 64) as u64
}

/// Four standard normals of one block, in f64, by Box-Muller: u = (word >> 8 + 1) 2^-24, v = (word >> 8) 2^-24,
/// pairs (words 0, 1) and (words 2, 3), each [sqrt(-2 ln u) cos(2 pi v), sqrt(-2 ln u) sin(2 pi v)].
pub fn normal4(seed: u64, stream: u64, block: u64) -> [f64; 4] {
    let w = philox(seed, stream, block);
    let mut out = [0.0; 4];
    for pair in 0..2 {
        let u = f64::from((w[2 * pair] >> 8) + 1) * 2f64.powi(-24);
        let v = f64::from(w[2 * pair + 1] >> 8) * 2f64.powi(-24);
        let r = (-2.0 * u.ln()).sqrt();
        let (s, c) = (2.0 * std::f64::consts::PI * v).sin_cos();
        out[2 * pair] = r * c;
        out[2 * pair + 1] = r * s;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(philox(0, 0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, u64::MAX, u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn below_stays_below_and_uniform_stays_in_the_unit_interval() {
        for i in 0..1000 {
            assert!(below(7, 1, i, 13) < 13);
            assert!((0.0..1.0).contains(&uniform(7, 2, i)));
        }
    }
}
