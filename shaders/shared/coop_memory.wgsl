// What coop_multiply.wgsl stages: rows of A (or, with A_BY_TERM, of its transpose) and of B, 16 bytes longer than their 32 and 64
// halves so that neighbouring rows lie in other banks, and the sums on their way out.
var<workgroup> sh_a: array<f16, 2560>;
var<workgroup> sh_b: array<f16, 2304>;
var<workgroup> sh_c: array<f32, 1024>;

// To f16; beyond its range, from 65520 on, infinite, whichever way the hardware rounds: sums show it. By bits, as in finite.wgsl.
fn to_half(v: vec4<f32>) -> vec4<f16> {
    let bits = bitcast<vec4<u32>>(v);
    let infinite = bitcast<vec4<f32>>((bits & vec4<u32>(0x80000000u)) | vec4<u32>(0x7f800000u));
    let beyond = (bits & vec4<u32>(0x7fffffffu)) >= vec4<u32>(0x477ff000u);
    return vec4<f16>(select(v, infinite, beyond));
}
