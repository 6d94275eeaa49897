//! MobileNetV2 up to its 1,280 pooled features, with torchvision's layers and names.
//! Called by `backbone`.

use super::backbone::{Conv, Walk};
use crate::error::Result;
use crate::kernels::pool::Window;

const RELU6: [f32; 2] = [0.0, 6.0];
/// The last images are 7 x 7.
const WHOLE: Window = Window { kernel: 7, stride: 1, pad: 0 };

/// Expansion, output channels, blocks, stride of the first (table 2 of the paper).
const STAGES: [[u32; 4]; 7] =
    [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];

/// Layer `i` of a Sequential, and its batch norm, layer `i + 1`.
fn conv(prefix: &str, i: u32, cout: u32, [kernel, stride]: [u32; 2]) -> Conv {
    let pad = [kernel / 2; 2];
    let (conv, norm) = (format!("{prefix}.{i}"), format!("{prefix}.{}", i + 1));
    Conv { conv, norm, cout, kernel: [kernel; 2], stride, pad, depthwise: false, clamp: Some(RELU6) }
}

/// 1x1 to `expansion` times the channels, 3x3 each channel by itself, 1x1 to `cout`; x is added where shapes allow it.
fn inverted_residual<W: Walk>(
    walk: &mut W,
    name: &str,
    x: W::Image,
    [expansion, cout, stride]: [u32; 3],
) -> Result<W::Image> {
    let cin = walk.channels(x);
    let (mut y, mut layer) = (x, 0);
    if expansion != 1 {
        y = walk.conv(&conv(&format!("{name}.conv.0"), 0, cin * expansion, [1, 1]), y)?;
        layer = 1;
    }
    let depthwise = conv(&format!("{name}.conv.{layer}"), 0, cin * expansion, [3, stride]);
    y = walk.conv(&Conv { depthwise: true, ..depthwise }, y)?;
    y = walk.conv(&Conv { clamp: None, ..conv(&format!("{name}.conv"), layer + 1, cout, [1, 1]) }, y)?;
    if stride == 1 && cin == cout { walk.add(x, y) } else { Ok(y) }
}

/// [N, 224, 224, 3] to [N, 1, 1, 1280].
pub fn walk<W: Walk>(walk: &mut W, x: W::Image) -> Result<W::Image> {
    let mut x = walk.conv(&conv("features.0", 0, 32, [3, 2]), x)?;
    let mut block = 1;
    for [expansion, cout, blocks, stride] in STAGES {
        for i in 0..blocks {
            let stride = if i == 0 { stride } else { 1 };
            x = inverted_residual(walk, &format!("features.{block}"), x, [expansion, cout, stride])?;
            block += 1;
        }
    }
    x = walk.conv(&conv(&format!("features.{block}"), 0, 1280, [1, 1]), x)?;
    walk.average_pool(x, WHOLE)
}
