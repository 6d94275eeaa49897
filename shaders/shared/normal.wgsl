// Box-Muller from integers, with polynomials of our own: WGSL's log, sin and cos differ between makers.
// Within 4 ULP of f64 for every argument (a test walks through all 2^24 of each).

// sqrt(-2 ln(k 2^-24)) for k = 1 .. 2^24.
fn normal_radius(k: u32) -> f32 {
    // k = m 2^e with m in [sqrt(1/2), sqrt(2)), so that near u = 1 nothing cancels.
    let bits = bitcast<u32>(f32(k)) + (0x3f800000u - 0x3f3504f3u);
    let e = f32(i32(bits >> 23u) - 127 - 24);
    let f = bitcast<f32>((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0;
    // ln(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)), s = f / (2 + f); coefficients of the SunPro library's logf.
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let r = z * (0.66666662693 + w * 0.28498786688) + w * (0.40000972152 + w * 0.24279078841);
    let half_square = 0.5 * f * f;
    let small = s * (half_square + r) + e * 9.0580006145e-06 - half_square;
    // e ln2 + f as an unevaluated sum: the logarithm keeps a few bits more than an f32.
    let big = e * 0.69313812256;
    let sum = big + f;
    let back = sum - big;
    let low = (big - (sum - back)) + (f - back) + small;
    let a = -2.0 * (sum + low);
    let a_rest = -2.0 * (low - ((sum + low) - sum));
    // One Newton step makes the square root as good as the arithmetic: drivers' own may be 3 ULP off. Splitting y
    // makes y^2 exact to the last bit that counts.
    let y = sqrt(a);
    let high = bitcast<f32>(bitcast<u32>(y) & 0xfffff000u);
    let rest = (a - high * high) - (y - high) * (y + high) + a_rest;
    return y + 0.5 * rest / max(y, 1e-30);
}

// (cos, sin)(2 pi k 2^-24) for k = 0 .. 2^24 - 1: the quadrant comes from the integer, the rest y is exact, |y| <= 1/8.
// The leading products are split so that they are exact: 6.28125 = 201/32 and 19.5 have few bits, and so have the
// rounded y they are multiplied with.
fn normal_turn(k: u32) -> vec2<f32> {
    let quadrant = (k + 0x200000u) >> 22u;
    let j = i32(k) - i32(quadrant << 22u);
    let y = f32(j) * 5.9604644775390625e-08;
    let z = y * y;
    let j_high = j / 1024 * 1024;
    let y_high = f32(j_high) * 5.9604644775390625e-08;
    let y_low = f32(j - j_high) * 5.9604644775390625e-08;
    let sine = y_high * 6.28125 + (y_low * 6.28125
        + y * (0.0019353071796 - z * (41.341702240 - z * (81.605249276 - z * (76.705859753 - z * 42.058693945)))));
    let y_round = f32((j + 4096) / 8192 * 8192) * 5.9604644775390625e-08;
    let z_low = (y - y_round) * (y + y_round);
    let cosine = (1.0 - y_round * y_round * 19.5) - (z_low * 19.5
        + z * (0.239208802 - z * (64.939394023 - z * (85.456817207 - z * (60.244641372 - z * 26.426256784)))));
    let swapped = select(vec2<f32>(cosine, sine), vec2<f32>(sine, cosine), (quadrant & 1u) == 1u);
    // Quadrants 1 and 2 have a negative cosine, 2 and 3 a negative sine.
    let signs = vec2<bool>(((quadrant + 1u) & 2u) != 0u, (quadrant & 2u) != 0u);
    return select(swapped, -swapped, signs);
}

// Four standard normals from four random words, as rng::normal4.
fn normal4(words: vec4<u32>) -> vec4<f32> {
    let k = words >> vec4<u32>(8u);
    return vec4<f32>(normal_radius(k.x + 1u) * normal_turn(k.y), normal_radius(k.z + 1u) * normal_turn(k.w));
}
