// Philox 4x32-10 (Salmon et al. 2011), the same function as rng::philox.
// Key = seed (low, high); counter = (index low, index high, stream low, stream high).
struct Philox { seed: vec2<u32>, stream: vec2<u32> }

// The 64-bit product as (low, high), from 16-bit halves: WGSL has no wide multiplication.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 16u);
    let cross = a0 * b1 + (middle & 0xffffu);
    return vec2<u32>(a * b, a1 * b1 + (middle >> 16u) + (cross >> 16u));
}

// first + i, with carry.
fn add_wide(first: vec2<u32>, i: u32) -> vec2<u32> {
    let low = first.x + i;
    return vec2<u32>(low, first.y + select(0u, 1u, low < i));
}

fn philox(key: Philox, index: vec2<u32>) -> vec4<u32> {
    var c = vec4<u32>(index, key.stream);
    var k = key.seed;
//% for round in range(10)
//% if round > 0
    k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
//% endif
    let p${round} = multiply_wide(0xd2511f53u, c.x);
    let q${round} = multiply_wide(0xcd9e8d57u, c.z);
    c = vec4<u32>(q${round}.y ^ c.y ^ k.x, q${round}.x, p${round}.y ^ c.w ^ k.y, p${round}.x);
//% endfor
    return c;
}
