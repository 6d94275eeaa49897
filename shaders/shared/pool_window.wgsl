// PoolParams of cards/pool.rs, and where an output's window begins: x (N, H, W, C), y (N, H', W', C).
struct Params {
    batch: u32, in_h: u32, in_w: u32, channels: u32,
    out_h: u32, out_w: u32,
    kernel: u32, stride: u32, pad: u32,
}

// Output `i` of the grid: its first channel in units of WIDTH, its sample, and the window's first row and column, which wrap
// below 0 where they lie in the padding.
struct Window { lane: u32, sample: u32, row: u32, column: u32 }

fn window_of(p: Params, i: u32) -> Window {
    let lanes = p.channels / ${WIDTH}u;
    let pixel = i / lanes;
    let line = pixel / p.out_w;
    let sample = line / p.out_h;
    let row = (line - sample * p.out_h) * p.stride - p.pad;
    return Window(i - pixel * lanes, sample, row, (pixel - line * p.out_w) * p.stride - p.pad);
}

// Where x's pixel lies, in units of WIDTH channels.
fn pixel_at(p: Params, window: Window, row: u32, column: u32) -> u32 {
    return ((window.sample * p.in_h + row) * p.in_w + column) * (p.channels / ${WIDTH}u) + window.lane;
}
