// Conv2dParams of cards/conv.rs: x (batch, in_h, in_w, cin), y (batch, out_h, out_w, cout).
struct Params {
    batch: u32,
    in_h: u32, in_w: u32, cin: u32,
    out_h: u32, out_w: u32, cout: u32,
    kh: u32, kw: u32,
    stride: u32, pad_top: u32, pad_left: u32,
    has_bias: u32,
    chunk: u32,
    addend: u32,
}
