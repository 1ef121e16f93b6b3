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

const DEPTH: u32 = 32u;
const STEP: u32 = 18u;
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

// Blocks of 64 x 64, four subgroups with 32 x 32 each.
@compute @workgroup_size(128)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = block(group.x);
    let end = min(shape.positions, (group.y + 1u) * shape.positions_of_part);
    let subgroup = lane / 32u;
    let down = 2u * (subgroup / 2u);
    let across = 2u * (subgroup % 2u);
# for i in range(2)
# for j in range(2)
    var sum{{ i }}_{{ j }} = coop_mat16x16<f32, C>();
# endfor
# endfor
    for (var first = group.y * shape.positions_of_part; first < end; first += DEPTH) {
        workgroupBarrier();
# for i in range(4)
        {
            let index = lane + {{ i }}u * 128u;
            let position = first + index / 16u;
            let start = position * shape.channels + index % 16u;
            let to = index / 16u * STEP + index % 16u;
            if position < end {
                rows[to] = features[start + at.x * 16u];
                columns[to] = features[start + at.y * 16u];
            } else {
                rows[to] = vec4<f16>(0.0h);
                columns[to] = vec4<f16>(0.0h);
            }
        }
# endfor
        workgroupBarrier();
# for k in range(2)
# for i in range(2)
        let a{{ k }}_{{ i }} = coopLoad<coop_mat16x16<f16, A>>(&rows[{{ k * 16 }}u * STEP + (down + {{ i }}u) * 4u], STEP);
# endfor
# for j in range(2)
        let b{{ k }}_{{ j }} = coopLoadT<coop_mat16x16<f16, B>>(&columns[{{ k * 16 }}u * STEP + (across + {{ j }}u) * 4u], STEP);
# for i in range(2)
        sum{{ i }}_{{ j }} = coopMultiplyAdd(a{{ k }}_{{ i }}, b{{ k }}_{{ j }}, sum{{ i }}_{{ j }});
# endfor
# endfor
# endfor
    }
    let to = (group.y * groups.x + group.x) * 1024u;
# for i in range(2)
# for j in range(2)
    coopStoreT(sum{{ i }}_{{ j }}, &parts[to + (down + {{ i }}u) * 256u + (across + {{ j }}u) * 4u], 16u);
# endfor
# endfor
}
