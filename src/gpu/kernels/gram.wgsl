// The Gram matrix F^T F of feature maps F [positions][channels], by its symmetry: only blocks on and above the
// diagonal are computed, each in parts of the positions, and then folded in a fixed order.

struct Shape {
    positions: u32,
    // In groups of four.
    channels: u32,
    // Blocks side by side.
    blocks: u32,
    parts: u32,
    positions_of_part: u32,
    // 1 / (positions * channels), in the units of the target.
    scale: f32,
    // The factor from the difference to the gradient.
    slope: f32,
    // Where the sums of a fold begin.
    sums: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;

// Values of a block side by side, and those of a thread.
const SIDE: u32 = 8u * SUB;
const SIDE4: u32 = SIDE / 4u;

// The row and column of a block on or above the diagonal.
fn block(index: u32) -> vec2<u32> {
    var row = 0u;
    var left = index;
    while left >= shape.blocks - row {
        left -= shape.blocks - row;
        row += 1u;
    }
    return vec2<u32>(row, row + left);
}

# if PARTS
@group(0) @binding(1) var<storage, read> features: array<Stored>;
// [parts][blocks on and above the diagonal][SIDE][SIDE]
@group(0) @binding(2) var<storage, read_write> parts: array<vec4<f32>>;

const DEPTH: u32 = 16u;
var<workgroup> rows: array<vec4<f32>, DEPTH * SIDE4>;
var<workgroup> columns: array<vec4<f32>, DEPTH * SIDE4>;

@compute @workgroup_size(64)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = block(group.x);
    let end = min(shape.positions, (group.y + 1u) * shape.positions_of_part);
    let across = lane % 8u;
    let down = lane / 8u;
# for i in range(SUB)
# for j in range(SUB4)
    var sum{{ i }}_{{ j }} = vec4<f32>(0.0);
# endfor
# endfor
    for (var first = group.y * shape.positions_of_part; first < end; first += DEPTH) {
        workgroupBarrier();
        for (var index = lane; index < DEPTH * SIDE4; index += 64u) {
            let position = first + index / SIDE4;
            let start = position * shape.channels + index % SIDE4;
            if position < end {
                rows[index] = vec4<f32>(features[start + at.x * SIDE4]);
                columns[index] = vec4<f32>(features[start + at.y * SIDE4]);
            } else {
                rows[index] = vec4<f32>(0.0);
                columns[index] = vec4<f32>(0.0);
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += 1u) {
# for j in range(SUB4)
            let row{{ j }} = rows[k * SIDE4 + down * SUB4 + {{ j }}u];
            let column{{ j }} = columns[k * SIDE4 + across + {{ j }}u * 8u];
# endfor
# for j in range(SUB4)
# for i in range(SUB4)
# for d in range(4)
            sum{{ i * 4 + d }}_{{ j }} = fma(vec4<f32>(row{{ i }}[{{ d }}]), column{{ j }}, sum{{ i * 4 + d }}_{{ j }});
# endfor
# endfor
# endfor
        }
    }
    let to = (group.y * groups.x + group.x) * SIDE * SIDE4;
# for i in range(SUB)
# for j in range(SUB4)
    parts[to + (down * SUB + {{ i }}u) * SIDE4 + across + {{ j }}u * 8u] = sum{{ i }}_{{ j }};
# endfor
# endfor
}
# endif

# if FOLD
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
// [channels][channels]
@group(0) @binding(2) var<storage, read> wanted: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> difference: array<Difference>;
# if SQUARES
// The squared distance from the target, a sum for each workgroup.
@group(0) @binding(4) var<storage, read_write> squares: array<f32>;
# endif

const BLOCK4: u32 = SIDE * SIDE4;
// A workgroup has ACROSS groups of four of one block; as many threads as there are DOWN share the parts of each.
const ACROSS: u32 = 16u;
const DOWN: u32 = 16u;
var<workgroup> shares: array<vec4<f32>, ACROSS * DOWN>;
# if SQUARES
var<workgroup> sums: array<f32, ACROSS>;
# endif

@compute @workgroup_size(256)
fn fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = block(group.x);
    let inside = group.y * ACROSS + lane % ACROSS;
    var share = vec4<f32>(0.0);
    for (var part = lane / ACROSS; part < shape.parts; part += DOWN) {
        share += parts[(part * groups.x + group.x) * BLOCK4 + inside];
    }
    shares[lane] = share;
    workgroupBarrier();
    if lane < ACROSS {
        var value = vec4<f32>(0.0);
        for (var down = 0u; down < DOWN; down += 1u) {
            value += shares[down * ACROSS + lane];
        }
# if SQUARES
        sums[lane] = finish(at, inside, value);
# else
        finish(at, inside, value);
# endif
    }
# if SQUARES
    workgroupBarrier();
    if lane == 0u {
        var sum = 0.0;
        for (var n = 0u; n < ACROSS; n += 1u) {
            sum += sums[n];
        }
        squares[shape.sums + group.y * groups.x + group.x] = sum;
    }
# endif
}

// Writes the difference, and returns its square.
fn finish(at: vec2<u32>, inside: u32, value: vec4<f32>) -> f32 {
    let row = at.x * SIDE + inside / SIDE4;
    let column = at.y * SIDE4 + inside % SIDE4;
    let to = row * shape.channels + column;
    let distance = value * shape.scale - wanted[to];
# if UNSCALED
    let kept = distance;
# elif HALF
    // Within the range of f16.
    let kept = clamp(shape.slope * distance, vec4<f32>(-65504.0), vec4<f32>(65504.0));
# else
    let kept = shape.slope * distance;
# endif
    difference[to] = Difference(kept);
    var square = dot(distance, distance);
    if at.x != at.y {
        square *= 2.0;
        // The mirror image.
# for d in range(4)
        difference[(4u * column + {{ d }}u) * shape.channels + row / 4u][row % 4u] = Part(kept[{{ d }}]);
# endfor
    }
    return square;
}
# endif
