//! Twins of the kernels that only judge images (`shader::cards::pool`).

use super::{Call, Twin};
use crate::shader::card::Params;
use crate::shader::cards::pool::{ClampParams, PoolParams};

pub const TWINS: &[(&str, Twin)] = &[
    ("max_pool", max_pool),
    ("average_pool", average_pool),
    ("clamp_values", clamp_values),
    ("depthwise_conv2d", depthwise_conv2d),
];

/// For every element of y: its channel, and what its window holds of x as (tap, value).
fn for_each_window(c: &mut Call, mut output: impl FnMut(usize, &[(usize, f64)]) -> f64) {
    let p = PoolParams::of(c.params);
    let [in_h, in_w, channels, out_h, out_w] = [p.in_h, p.in_w, p.channels, p.out_h, p.out_w].map(|v| v as usize);
    let [kernel, stride, pad] = [p.kernel, p.stride, p.pad].map(|v| v as usize);
    // Coordinates count from the padding's first row and column.
    let inside = |at: usize, extent: usize| at.checked_sub(pad).filter(|&at| at < extent);
    for (i, y) in c.writes[0].iter_mut().enumerate() {
        let (channel, ow, line) = (i % channels, i / channels % out_w, i / channels / out_w);
        let (oh, sample) = (line % out_h, line / out_h);
        let taps = (0..kernel * kernel).filter_map(|tap| {
            let row = inside(oh * stride + tap / kernel, in_h)?;
            let column = inside(ow * stride + tap % kernel, in_w)?;
            Some((tap, c.reads[0][((sample * in_h + row) * in_w + column) * channels + channel]))
        });
        *y = output(channel, &taps.collect::<Vec<_>>());
    }
}

fn max_pool(c: &mut Call) {
    for_each_window(c, |_, held| held.iter().map(|&(_, x)| x).fold(f64::NEG_INFINITY, f64::max));
}

fn average_pool(c: &mut Call) {
    for_each_window(c, |_, held| held.iter().map(|&(_, x)| x).sum::<f64>() / held.len() as f64);
}

fn clamp_values(c: &mut Call) {
    let p = ClampParams::of(c.params);
    for (y, x) in c.writes[0].iter_mut().zip(&c.reads[0]) {
        *y = x.max(f64::from(p.low)).min(f64::from(p.high));
    }
}

fn depthwise_conv2d(c: &mut Call) {
    let channels = PoolParams::of(c.params).channels as usize;
    let (w, bias) = (c.reads[1].clone(), c.reads[2].clone());
    for_each_window(c, |channel, held| {
        bias[channel] + held.iter().map(|&(tap, x)| w[tap * channels + channel] * x).sum::<f64>()
    });
}
