// Steps of the tiled attention kernels: 64 invocations as 8 x 8 hold a 32 x 32 tile, each four rows by a vec4.
//% macro storage()
// Rows of 32 with one word between them, so that neither rows nor columns meet in one bank.
var<workgroup> sh_a: array<f32, 1056>;
var<workgroup> sh_b: array<f32, 1056>;
var<workgroup> sh_weights: array<f32, 1056>;
//% endmacro
<# Rows first .. first + 32 of a head, channels 32 chunk .. 32 chunk + 32, zero outside. #>
//% macro load(target, source, base, first, rows, chunk)
    for (var e = lane; e < 1024u; e += 64u) {
        let r = ${first} + e / 32u;
        let j = ${chunk} * 32u + e % 32u;
        var value = 0.0;
        if r < params.${rows} && j < params.size {
            value = ${source}[${base} + r * stride + j];
        }
        ${target}[(e / 32u) * 33u + e % 32u] = value;
    }
//% endmacro
<# sum0 .. sum3 += sh_a sh_b^T #>
//% macro multiply_transposed(sum)
    for (var j = 0u; j < 32u; j++) {
        let b = vec4<f32>(sh_b[column * 33u + j], sh_b[(column + 1u) * 33u + j],
                          sh_b[(column + 2u) * 33u + j], sh_b[(column + 3u) * 33u + j]);
//% for i in range(4)
        ${sum}${i} += sh_a[(row + ${i}u) * 33u + j] * b;
//% endfor
    }
//% endmacro
<# sum_0 .. sum_3 += sh_weights sh_b #>
//% macro multiply(sum)
    for (var j = 0u; j < 32u; j++) {
        let at = j * 33u + column;
        let b = vec4<f32>(sh_b[at], sh_b[at + 1u], sh_b[at + 2u], sh_b[at + 3u]);
//% for i in range(4)
        ${sum}_${i} += sh_weights[(row + ${i}u) * 33u + j] * b;
//% endfor
    }
//% endmacro
<# target = sum_0 .. sum_3, rows first + row ..., channels of the chunk. #>
//% macro store(target, base, first, rows, chunk, sum)
//% for i in range(4)
    if ${first} + row + ${i}u < params.${rows} {
//% for k in range(4)
        if ${chunk} * 32u + column + ${k}u < params.size {
            ${target}[${base} + (${first} + row + ${i}u) * stride + ${chunk} * 32u + column + ${k}u] = ${sum}_${i}[${k}];
        }
//% endfor
    }
//% endfor
//% endmacro
