// The parts of a Gram matrix, as in gram.wgsl, of feature maps in f16 by matrix units.

struct Shape {
    positions: u32,
    // In groups of four.
    channels: u32,
    blocks: u32,
    parts: u32,
    positions_of_part: u32,
    scale: f32,
    slope: f32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> features: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read_write> parts: array<vec4<f32>>;

// Values of a block side by side, in groups of four.
const SIDE4: u32 = 8u * BLOCKS;
const DEPTH: u32 = 32u;
// Two groups more than needed, so that rows lie in different banks.
const STEP: u32 = SIDE4 + 2u;
var<workgroup> rows: array<vec4<f16>, DEPTH * STEP>;
var<workgroup> columns: array<vec4<f16>, DEPTH * STEP>;

fn block(index: u32) -> vec2<u32> {
    var row = 0u;
    var left = index;
    while left >= shape.blocks - row {
        left -= shape.blocks - row;
        row += 1u;
    }
    return vec2<u32>(row, row + left);
}

// Four subgroups have a quarter of a block each, which is BLOCKS x BLOCKS products of 16 x 16.
@compute @workgroup_size(128)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = block(group.x);
    let end = min(shape.positions, (group.y + 1u) * shape.positions_of_part);
    let subgroup = lane / 32u;
    let down = BLOCKS * (subgroup / 2u);
    let across = BLOCKS * (subgroup % 2u);
# for i in range(BLOCKS)
# for j in range(BLOCKS)
    var sum{{ i }}_{{ j }} = coop_mat16x16<f32, C>();
# endfor
# endfor
    for (var first = group.y * shape.positions_of_part; first < end; first += DEPTH) {
        workgroupBarrier();
# for i in range(2 * BLOCKS)
        {
            let index = lane + {{ i }}u * 128u;
            let position = first + index / SIDE4;
            let start = position * shape.channels + index % SIDE4;
            let to = index / SIDE4 * STEP + index % SIDE4;
            if position < end {
                rows[to] = features[start + at.x * SIDE4];
                columns[to] = features[start + at.y * SIDE4];
            } else {
                rows[to] = vec4<f16>(0.0h);
                columns[to] = vec4<f16>(0.0h);
            }
        }
# endfor
        workgroupBarrier();
# for k in range(2)
# for i in range(BLOCKS)
        let a{{ k }}_{{ i }} = coopLoad<coop_mat16x16<f16, A>>(&rows[{{ k * 16 }}u * STEP + (down + {{ i }}u) * 4u], STEP);
# endfor
# for j in range(BLOCKS)
        let b{{ k }}_{{ j }} = coopLoadT<coop_mat16x16<f16, B>>(&columns[{{ k * 16 }}u * STEP + (across + {{ j }}u) * 4u], STEP);
# for i in range(BLOCKS)
        sum{{ i }}_{{ j }} = coopMultiplyAdd(a{{ k }}_{{ i }}, b{{ k }}_{{ j }}, sum{{ i }}_{{ j }});
# endfor
# endfor
# endfor
    }
    let to = (group.y * groups.x + group.x) * 4u * SIDE4 * SIDE4;
# for i in range(BLOCKS)
# for j in range(BLOCKS)
    coopStoreT(sum{{ i }}_{{ j }}, &parts[to + (down + {{ i }}u) * 16u * SIDE4 + (across + {{ j }}u) * 4u], SIDE4);
# endfor
# endfor
}
