// What coop_multiply.wgsl stages: rows of A and of B, 16 bytes longer than their 32 and 64 halves so that neighbouring rows lie in
// other banks, and the sums on their way out.
var<workgroup> sh_a: array<f16, 2560>;
var<workgroup> sh_b: array<f16, 2304>;
var<workgroup> sh_c: array<f32, 1024>;

// To f16. What is finite stays so: beyond f16's range it becomes the largest f16. By bits, as in finite.wgsl.
fn to_half(v: vec4<f32>) -> vec4<f16> {
    let finite = (bitcast<vec4<u32>>(v) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u);
    return vec4<f16>(select(v, clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)), finite));
}
