// By bits, because a compiler may assume that no NaN or infinity exists.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
