// The linear number of a workgroup: the plan folds a count above 65,535 into (x, y).
fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + group.y * groups.x;
}
