// Sums over the 64 lanes of a workgroup, in a fixed order; every lane gets the total.
var<workgroup> partial_sums: array<vec2<f32>, 64>;

fn sum64(lane: u32, value: vec2<f32>) -> vec2<f32> {
    partial_sums[lane] = value;
    workgroupBarrier();
//% for half in [32, 16, 8, 4, 2, 1]
    if lane < ${half}u {
        partial_sums[lane] += partial_sums[lane + ${half}u];
    }
    workgroupBarrier();
//% endfor
    return partial_sums[0];
}
