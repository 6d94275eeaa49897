//! Channel projections folded into the convolutions before them, so that a plain diffusers network computes the same.
//! Called by `cli::export`.
//!
//! Behind a convolution y = W x + b, whatever its padding, P y = (P W) x + P b: the projection mixes outputs, and zeros around
//! the input stay zeros. Behind a sum of two convolutions P goes into both. Products are summed in f64 and rounded once; an
//! identity changes no bit.

use std::path::Path;

use crate::error::{Error, Result};
use crate::io::source::{TensorInfo, TensorSource};
use crate::model::config::UNetConfig;
use crate::model::projections::{PREFIX, Place, Placement};

/// What becomes of a model's projections in a plain one.
pub struct Plain {
    /// With their matrices [C, C], row-major.
    folded: Vec<(Place, Vec<f32>)>,
    /// Those that fold nowhere, and how far they are from the identity: |P - I| / |I|, Frobenius norms.
    dropped: Vec<(Place, f64)>,
}

impl Plain {
    /// Of a model with projections where `placement` has them; `read` gives their weights by name.
    pub fn new(
        config: &UNetConfig,
        placement: Placement,
        read: &mut dyn FnMut(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let (mut folded, mut dropped) = (Vec::new(), Vec::new());
        for place in placement.places(config) {
            let p = read(&place.weight())?;
            if place.folds_into.is_empty() {
                let moved = moved(&p, place.channels as usize);
                dropped.push((place, moved));
            } else {
                folded.push((place, p));
            }
        }
        Ok(Self { folded, dropped })
    }

    /// The projections that fold.
    pub fn folded(&self) -> impl Iterator<Item = &Place> {
        self.folded.iter().map(|(place, _)| place)
    }

    /// Those that are dropped and are not the identity, with |P - I| / |I|.
    pub fn lost(&self) -> impl Iterator<Item = (&Place, f64)> {
        self.dropped.iter().filter(|(_, moved)| *moved != 0.0).map(|(place, moved)| (place, *moved))
    }

    /// Whether a tensor is one that projections fold into.
    pub fn changes(&self, name: &str) -> bool {
        self.into(name).is_some()
    }

    /// Tensor `name` of the plain model from that of the model with projections, in the file's layout: [C, ...].
    pub fn tensor(&self, name: &str, values: Vec<f32>) -> Result<Vec<f32>> {
        let Some((place, p)) = self.into(name) else { return Ok(values) };
        let channels = place.channels as usize;
        if moved(p, channels) == 0.0 {
            return Ok(values);
        }
        let folded = multiply(p, &values, channels);
        match folded.iter().position(|v| !v.is_finite()) {
            None => Ok(folded),
            Some(element) => {
                let message = format!("element {element} of {name} exceeds f32 with its projection folded in");
                Err(Error::usage(message, "use smaller weights, or keep the projections (--export full)"))
            }
        }
    }

    /// The projection that folds into a tensor.
    fn into(&self, name: &str) -> Option<(&Place, &[f32])> {
        let conv = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"))?;
        let found = self.folded.iter().find(|(place, _)| place.folds_into.iter().any(|c| c == conv));
        found.map(|(place, p)| (place, p.as_slice()))
    }
}

/// |P - I| / |I|
fn moved(p: &[f32], channels: usize) -> f64 {
    let off = |(i, &v): (usize, &f32)| f64::from(v) - f64::from(u8::from(i / channels == i % channels));
    let squares: f64 = p.iter().enumerate().map(off).map(|d| d * d).sum();
    (squares / channels as f64).sqrt()
}

/// P V: P [C, C], V [C, anything].
fn multiply(p: &[f32], v: &[f32], channels: usize) -> Vec<f32> {
    let width = v.len() / channels;
    let mut out = Vec::with_capacity(v.len());
    for row in p.chunks(channels) {
        let mut sums = vec![0f64; width];
        for (&factor, values) in row.iter().zip(v.chunks(width)) {
            sums.iter_mut().zip(values).for_each(|(sum, &v)| *sum += f64::from(factor) * f64::from(v));
        }
        out.extend(sums.iter().map(|&sum| sum as f32));
    }
    out
}

/// A model's weights with its projections folded: what folding first, and merging then, merges.
pub struct Folded<'a> {
    source: &'a dyn TensorSource,
    plain: Plain,
    names: Vec<String>,
}

impl<'a> Folded<'a> {
    pub fn new(config: &UNetConfig, source: &'a dyn TensorSource) -> Result<Self> {
        let plain = Plain::new(config, Placement::of(config, source), &mut |name| source.read_f32(name))?;
        let names = source.names().iter().filter(|name| !name.starts_with(PREFIX)).cloned().collect();
        Ok(Self { source, plain, names })
    }
}

impl TensorSource for Folded<'_> {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.source.info(name)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.plain.tensor(name, self.source.read_f32(name)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Of a convolution 2 -> 3 channels, 2x1, at one pixel: P (W x + b) by hand.
    #[test]
    fn a_projection_is_multiplied_from_the_left() {
        let p = [0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 1.0, -1.0];
        let w: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let expected = [4.0, 5.0, 6.0, 7.0, 0.0, 2.0, 4.0, 6.0, -4.0, -3.0, -2.0, -1.0];
        assert_eq!(multiply(&p, &w, 3), expected);
        assert_eq!(multiply(&p, &[10.0, 20.0, 30.0], 3), [20.0, 20.0, 0.0]);
        assert_eq!(moved(&p, 3), (13f64 / 3.0).sqrt());
        assert_eq!(moved(&[1.0, 0.0, 0.0, 1.0], 2), 0.0);
    }
}
