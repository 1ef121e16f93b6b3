// Adds up the partial sums of workgroups, in a fixed order. A workgroup makes one sum.

struct List {
    first: u32,
    count: u32,
    // Where the sum goes.
    slot: u32,
    padding: u32,
}

@group(0) @binding(0) var<storage, read> lists: array<List>;
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let list = lists[group.x];
    var own = 0.0;
    for (var at = lane; at < list.count; at += 256u) {
        own += parts[list.first + at];
    }
    partial[lane] = own;
    workgroupBarrier();
    for (var span = 128u; span > 0u; span /= 2u) {
        if lane < span {
            partial[lane] += partial[lane + span];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        sums[list.slot] = partial[0];
    }
}
