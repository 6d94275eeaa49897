// For each name of `tables` (N, G): its two values for the groups of one invocation's channels c WIDTH + 0 .. WIDTH - 1.
struct Pair { first: Lanes, second: Lanes }
//% for name in tables

fn load_${name}(n: u32, c: u32) -> Pair {
    let members = params.channels / params.groups;
//% if WIDTH == 4
//% for i in range(4)
    let s${i} = ${name}[n * params.groups + (c * 4u + ${i}u) / members];
//% endfor
    return Pair(vec4<f32>(s0.x, s1.x, s2.x, s3.x), vec4<f32>(s0.y, s1.y, s2.y, s3.y));
//% else
    let s = ${name}[n * params.groups + c / members];
    return Pair(s.x, s.y);
//% endif
}
//% endfor
