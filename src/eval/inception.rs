//! InceptionV3 as the TensorFlow graph of 2015-12-05 has it, up to its 2,048 pooled features: average pools leave padding out
//! of the count, and the last block pools by the maximum. Called by `backbone`; names are torchvision's.

use super::backbone::{Conv, Walk};
use crate::error::Result;
use crate::kernels::pool::Window;

const RECTIFIED: [f32; 2] = [0.0, f32::MAX];
/// Between the blocks, and in those that halve the image.
const HALVE: Window = Window { kernel: 3, stride: 2, pad: 0 };
const SAME: Window = Window { kernel: 3, stride: 1, pad: 1 };
/// The last images are 8 x 8.
const WHOLE: Window = Window { kernel: 8, stride: 1, pad: 0 };

fn conv(name: &str, cout: u32, kernel: [u32; 2], stride: u32, pad: [u32; 2]) -> Conv {
    let (conv, norm) = (format!("{name}.conv"), format!("{name}.bn"));
    Conv { conv, norm, cout, kernel, stride, pad, depthwise: false, clamp: Some(RECTIFIED) }
}

/// A block's layers, by their names within it.
struct Block<'a, W> {
    walk: &'a mut W,
    name: &'a str,
}

impl<W: Walk> Block<'_, W> {
    /// At stride 1, padded to keep the image's size.
    fn same(&mut self, name: &str, x: W::Image, cout: u32, kernel: [u32; 2]) -> Result<W::Image> {
        self.walk.conv(&conv(&format!("{}.{name}", self.name), cout, kernel, 1, kernel.map(|k| k / 2)), x)
    }

    /// 3x3 at stride 2 without padding.
    fn halve(&mut self, name: &str, x: W::Image, cout: u32) -> Result<W::Image> {
        self.walk.conv(&conv(&format!("{}.{name}", self.name), cout, [3, 3], 2, [0, 0]), x)
    }

    /// 1x1 convolution of the averaged image.
    fn averaged(&mut self, x: W::Image, cout: u32) -> Result<W::Image> {
        let pooled = self.walk.average_pool(x, SAME)?;
        self.same("branch_pool", pooled, cout, [1, 1])
    }

    /// 35 x 35: 1x1, 5x5, two 3x3, and `pooled` channels of averages.
    fn a(&mut self, x: W::Image, pooled: u32) -> Result<W::Image> {
        let one = self.same("branch1x1", x, 64, [1, 1])?;
        let five = self.same("branch5x5_1", x, 48, [1, 1])?;
        let five = self.same("branch5x5_2", five, 64, [5, 5])?;
        let three = self.same("branch3x3dbl_1", x, 64, [1, 1])?;
        let three = self.same("branch3x3dbl_2", three, 96, [3, 3])?;
        let three = self.same("branch3x3dbl_3", three, 96, [3, 3])?;
        let pool = self.averaged(x, pooled)?;
        self.walk.concat(&[one, five, three, pool])
    }

    /// 35 x 35 to 17 x 17.
    fn b(&mut self, x: W::Image) -> Result<W::Image> {
        let three = self.halve("branch3x3", x, 384)?;
        let double = self.same("branch3x3dbl_1", x, 64, [1, 1])?;
        let double = self.same("branch3x3dbl_2", double, 96, [3, 3])?;
        let double = self.halve("branch3x3dbl_3", double, 96)?;
        let pool = self.walk.max_pool(x, HALVE)?;
        self.walk.concat(&[three, double, pool])
    }

    /// 17 x 17: 1x1, and 7x7 in rows and columns over `c` channels, once and twice.
    fn c(&mut self, x: W::Image, c: u32) -> Result<W::Image> {
        let one = self.same("branch1x1", x, 192, [1, 1])?;
        let seven = self.same("branch7x7_1", x, c, [1, 1])?;
        let seven = self.same("branch7x7_2", seven, c, [1, 7])?;
        let seven = self.same("branch7x7_3", seven, 192, [7, 1])?;
        let double = self.same("branch7x7dbl_1", x, c, [1, 1])?;
        let double = self.same("branch7x7dbl_2", double, c, [7, 1])?;
        let double = self.same("branch7x7dbl_3", double, c, [1, 7])?;
        let double = self.same("branch7x7dbl_4", double, c, [7, 1])?;
        let double = self.same("branch7x7dbl_5", double, 192, [1, 7])?;
        let pool = self.averaged(x, 192)?;
        self.walk.concat(&[one, seven, double, pool])
    }

    /// 17 x 17 to 8 x 8.
    fn d(&mut self, x: W::Image) -> Result<W::Image> {
        let three = self.same("branch3x3_1", x, 192, [1, 1])?;
        let three = self.halve("branch3x3_2", three, 320)?;
        let seven = self.same("branch7x7x3_1", x, 192, [1, 1])?;
        let seven = self.same("branch7x7x3_2", seven, 192, [1, 7])?;
        let seven = self.same("branch7x7x3_3", seven, 192, [7, 1])?;
        let seven = self.halve("branch7x7x3_4", seven, 192)?;
        let pool = self.walk.max_pool(x, HALVE)?;
        self.walk.concat(&[three, seven, pool])
    }

    /// 8 x 8: 3x3 as a row beside a column, once and behind another 3x3.
    fn e(&mut self, x: W::Image, last: bool) -> Result<W::Image> {
        let one = self.same("branch1x1", x, 320, [1, 1])?;
        let three = self.same("branch3x3_1", x, 384, [1, 1])?;
        let row = self.same("branch3x3_2a", three, 384, [1, 3])?;
        let column = self.same("branch3x3_2b", three, 384, [3, 1])?;
        let double = self.same("branch3x3dbl_1", x, 448, [1, 1])?;
        let double = self.same("branch3x3dbl_2", double, 384, [3, 3])?;
        let double_row = self.same("branch3x3dbl_3a", double, 384, [1, 3])?;
        let double_column = self.same("branch3x3dbl_3b", double, 384, [3, 1])?;
        let pool = if last {
            let pooled = self.walk.max_pool(x, SAME)?;
            self.same("branch_pool", pooled, 192, [1, 1])?
        } else {
            self.averaged(x, 192)?
        };
        self.walk.concat(&[one, row, column, double_row, double_column, pool])
    }
}

/// [N, 299, 299, 3] to [N, 1, 1, 2048].
pub fn walk<W: Walk>(walk: &mut W, x: W::Image) -> Result<W::Image> {
    let x = walk.conv(&conv("Conv2d_1a_3x3", 32, [3, 3], 2, [0, 0]), x)?;
    let x = walk.conv(&conv("Conv2d_2a_3x3", 32, [3, 3], 1, [0, 0]), x)?;
    let x = walk.conv(&conv("Conv2d_2b_3x3", 64, [3, 3], 1, [1, 1]), x)?;
    let x = walk.max_pool(x, HALVE)?;
    let x = walk.conv(&conv("Conv2d_3b_1x1", 80, [1, 1], 1, [0, 0]), x)?;
    let x = walk.conv(&conv("Conv2d_4a_3x3", 192, [3, 3], 1, [0, 0]), x)?;
    let mut x = walk.max_pool(x, HALVE)?;
    for (name, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = Block { walk: &mut *walk, name }.a(x, pooled)?;
    }
    x = Block { walk: &mut *walk, name: "Mixed_6a" }.b(x)?;
    for (name, channels) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        x = Block { walk: &mut *walk, name }.c(x, channels)?;
    }
    x = Block { walk: &mut *walk, name: "Mixed_7a" }.d(x)?;
    x = Block { walk: &mut *walk, name: "Mixed_7b" }.e(x, false)?;
    x = Block { walk: &mut *walk, name: "Mixed_7c" }.e(x, true)?;
    walk.average_pool(x, WHOLE)
}
