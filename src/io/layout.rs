//! The files' layout of weights and the engine's: convolutions OIHW <-> [KH, KW, Cin, Cout], matrices [out, in] <->
//! [in, out], image channels padded with zeros to four. Called where weights enter and leave slabs; nothing else knows.

use crate::error::{Error, Result};
use crate::shape::padded_channels;

/// What a tensor is, which decides how its elements are ordered on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Convolution: file [Cout, Cin, KH, KW], engine [KH, KW, padded Cin, padded Cout].
    Conv { cin: u32, cout: u32, kh: u32, kw: u32 },
    /// Matrix: file [out, in], engine [in, out].
    Linear { inputs: u32, outputs: u32 },
    /// Bias, scale or shift: [C] in the file, [padded C] in the engine.
    Vector { channels: u32 },
}

impl Layout {
    /// From a file's extents: four are a convolution, two a matrix, one a vector.
    pub fn of(name: &str, shape: &[u64]) -> Result<Self> {
        let mut d = [0u32; 4];
        let fits = shape.len() <= 4 && shape.iter().zip(&mut d).all(|(&s, d)| u32::try_from(s).map(|s| *d = s).is_ok());
        match shape.len() {
            4 if fits => Ok(Self::Conv { cout: d[0], cin: d[1], kh: d[2], kw: d[3] }),
            2 if fits => Ok(Self::Linear { outputs: d[0], inputs: d[1] }),
            1 if fits => Ok(Self::Vector { channels: d[0] }),
            _ => Err(Error::shape("weight layout", format!("{name} has the extents {shape:?}"))),
        }
    }

    /// Extents in the file.
    pub fn file_shape(self) -> Vec<u64> {
        match self {
            Self::Conv { cin, cout, kh, kw } => [cout, cin, kh, kw].map(u64::from).to_vec(),
            Self::Linear { inputs, outputs } => [outputs, inputs].map(u64::from).to_vec(),
            Self::Vector { channels } => vec![u64::from(channels)],
        }
    }

    /// Extents in the engine, padding included.
    pub fn engine_shape(self) -> Vec<u32> {
        match self {
            Self::Conv { cin, cout, kh, kw } => vec![kh, kw, padded_channels(cin), padded_channels(cout)],
            Self::Linear { inputs, outputs } => vec![inputs, outputs],
            Self::Vector { channels } => vec![padded_channels(channels)],
        }
    }

    pub fn file_elements(self) -> usize {
        self.file_shape().iter().map(|&d| d as usize).product()
    }

    pub fn engine_elements(self) -> usize {
        self.engine_shape().iter().map(|&d| d as usize).product()
    }

    /// File order to engine order; padding is zero.
    pub fn to_engine(self, file: &[f32]) -> Result<Vec<f32>> {
        check("weights from a file", file.len(), self.file_elements())?;
        let mut out = vec![0.0; self.engine_elements()];
        self.for_each(|f, e| out[e] = file[f]);
        Ok(out)
    }

    /// Engine order to file order; padding is dropped. The inverse of `to_engine`, bit for bit.
    pub fn to_file(self, engine: &[f32]) -> Result<Vec<f32>> {
        check("weights to a file", engine.len(), self.engine_elements())?;
        let mut out = vec![0.0; self.file_elements()];
        self.for_each(|f, e| out[f] = engine[e]);
        Ok(out)
    }

    /// Calls `pair(file index, engine index)` for every element of the file.
    fn for_each(self, mut pair: impl FnMut(usize, usize)) {
        match self {
            Self::Conv { cin, cout, kh, kw } => {
                let (ci, co) = (padded_channels(cin) as usize, padded_channels(cout) as usize);
                let (cin, cout, taps) = (cin as usize, cout as usize, (kh * kw) as usize);
                for o in 0..cout {
                    for i in 0..cin {
                        for tap in 0..taps {
                            pair((o * cin + i) * taps + tap, (tap * ci + i) * co + o);
                        }
                    }
                }
            }
            Self::Linear { inputs, outputs } => {
                let (inputs, outputs) = (inputs as usize, outputs as usize);
                for o in 0..outputs {
                    for i in 0..inputs {
                        pair(o * inputs + i, i * outputs + o);
                    }
                }
            }
            Self::Vector { channels } => (0..channels as usize).for_each(|c| pair(c, c)),
        }
    }
}

fn check(op: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(op, format!("{got} elements, expected {expected}"))) }
}

/// Pictures [N, C, pixels] of a file to the engine's [N, pixels, padded C], padding zero.
pub fn nchw_to_nhwc(file: &[f32], channels: u32, pixels: u32) -> Vec<f32> {
    let (c, p, stored) = (channels as usize, pixels as usize, padded_channels(channels) as usize);
    let mut out = vec![0.0; file.len() / c * stored];
    for (image, planes) in out.chunks_exact_mut(p * stored).zip(file.chunks_exact(p * c)) {
        for (channel, plane) in planes.chunks_exact(p).enumerate() {
            plane.iter().enumerate().for_each(|(i, &v)| image[i * stored + channel] = v);
        }
    }
    out
}

/// The inverse of `nchw_to_nhwc`.
pub fn nhwc_to_nchw(engine: &[f32], channels: u32, pixels: u32) -> Vec<f32> {
    let (c, p, stored) = (channels as usize, pixels as usize, padded_channels(channels) as usize);
    let mut out = vec![0.0; engine.len() / stored * c];
    for (planes, image) in out.chunks_exact_mut(p * c).zip(engine.chunks_exact(p * stored)) {
        for (channel, plane) in planes.chunks_exact_mut(p).enumerate() {
            plane.iter_mut().enumerate().for_each(|(i, v)| *v = image[i * stored + channel]);
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn layouts() -> [Layout; 6] {
        [
            Layout::Conv { cin: 3, cout: 8, kh: 3, kw: 3 },
            Layout::Conv { cin: 8, cout: 1, kh: 3, kw: 3 },
            Layout::Conv { cin: 6, cout: 5, kh: 1, kw: 1 },
            Layout::Linear { inputs: 7, outputs: 3 },
            Layout::Vector { channels: 3 },
            Layout::Vector { channels: 9 },
        ]
    }

    #[test]
    fn there_and_back_is_bit_exact_and_padding_is_zero() {
        for layout in layouts() {
            // Every element has its own bits, NaN payloads and negative zero among them.
            let file: Vec<f32> = (0..layout.file_elements())
                .map(|i| f32::from_bits(0x7FC0_0000 ^ (i as u32).wrapping_mul(0x9E37_79B9)))
                .collect();
            let engine = layout.to_engine(&file).unwrap();
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&layout.to_file(&engine).unwrap()), bits(&file), "{layout:?}");
            let mut padding = engine.clone();
            layout.for_each(|_, e| padding[e] = 0.0);
            assert!(padding.iter().all(|x| x.to_bits() == 0), "{layout:?}");
            assert_eq!(Layout::of("w", &layout.file_shape()).unwrap(), layout);
        }
    }

    #[test]
    fn a_convolution_lands_where_the_kernels_read_it() {
        let layout = Layout::Conv { cin: 3, cout: 2, kh: 3, kw: 3 };
        let at = |o: usize, i: usize, y: usize, x: usize| (((o * 3 + i) * 3 + y) * 3 + x) as f32;
        let file: Vec<f32> = (0..54).map(|n| n as f32).collect();
        let engine = layout.to_engine(&file).unwrap();
        assert_eq!(layout.engine_shape(), [3, 3, 4, 4]);
        assert_eq!(engine[((2 * 3 + 1) * 4 + 2) * 4 + 1], at(1, 2, 2, 1));
        assert_eq!(engine[(2 * 4 + 3) * 4 + 1], 0.0);
    }

    #[test]
    fn pictures_go_there_and_back() {
        for channels in [1u32, 3, 4, 6] {
            let file: Vec<f32> = (0..2 * channels * 15).map(|i| i as f32).collect();
            let engine = nchw_to_nhwc(&file, channels, 15);
            assert_eq!(engine[padded_channels(channels) as usize * 7], file[7]);
            assert_eq!(nhwc_to_nchw(&engine, channels, 15), file);
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        for layout in layouts() {
            assert!(layout.to_engine(&vec![0.0; layout.file_elements() + 1]).is_err());
            assert!(layout.to_file(&vec![0.0; layout.engine_elements() - 1]).is_err());
        }
        assert!(Layout::of("w", &[2, 3, 4]).is_err());
        assert!(Layout::of("w", &[u64::MAX]).is_err());
    }
}
