// 3x3 convolution (TAPS 9) or product with one matrix (TAPS 1) of feature maps in f16 by matrix units, with sums in
// float32: an implicit product of [pixels][taps * inputs] and [taps * inputs][outputs].
//
// A workgroup computes a patch of HEIGHT x 16 pixels and COLUMNS channels. SLICE inputs at a time, of the patch with
// what is around it and of the filters of all taps, go through workgroup memory. A subgroup has ROWS_EACH rows of the
// patch and BLOCKS_EACH blocks of 16 channels.
//
// Without UNITS the threads of a subgroup compute the same products one by one, so that all the rest can be tested
// where there are no matrix units.

struct Shape {
    width: u32,
    height: u32,
    // In groups of four.
    inputs: u32,
    outputs: u32,
    scale: f32,
    patches_across: u32,
    padding1: u32,
    padding2: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> features: array<vec4<f16>>;
// [TAPS][inputs][outputs]
@group(0) @binding(2) var<storage, read> filters: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> outputs: array<vec4<f16>>;
# if RELU
@group(0) @binding(4) var<storage, read> biases: array<vec4<f32>>;
# endif
# if MASK
@group(0) @binding(4) var<storage, read> activations: array<vec4<f16>>;
# endif
# if DIFFERENCE
// What is subtracted from the feature maps first.
@group(0) @binding(4) var<storage, read> subtrahend: array<vec4<f16>>;
# endif

const HALO: u32 = SIDE / 2u;
const WIDE: u32 = 16u + 2u * HALO;
const HIGH: u32 = HEIGHT + 2u * HALO;
const SLICE4: u32 = SLICE / 4u;
const COLUMNS4: u32 = COLUMNS / 4u;
// Two groups more than needed, so that rows lie in different banks.
const A_STEP: u32 = SLICE4 + 2u;
const A_COUNT: u32 = WIDE * HIGH * SLICE4;
const B_STEP: u32 = COLUMNS4 + 2u;
const B_COUNT: u32 = SIDE * SIDE * SLICE * COLUMNS4;
const SUBGROUPS_ACROSS: u32 = COLUMNS / (16u * BLOCKS_EACH);
const SUBGROUPS: u32 = (HEIGHT / ROWS_EACH) * SUBGROUPS_ACROSS;
const THREADS: u32 = 32u * SUBGROUPS;

var<workgroup> a_tile: array<vec4<f16>, WIDE * HIGH * A_STEP>;
var<workgroup> b_tile: array<vec4<f16>, SIDE * SIDE * SLICE * B_STEP>;
var<workgroup> sums: array<vec4<f32>, SUBGROUPS * 64u>;

fn feature(x: u32, y: u32, channel: u32) -> vec4<f16> {
    // Left of and above the image the unsigned numbers wrap around, and are too large as well.
    if x < shape.width && y < shape.height {
        let at = (y * shape.width + x) * shape.inputs + channel;
# if DIFFERENCE
        return features[at] - subtrahend[at];
# else
        return features[at];
# endif
    }
    return vec4<f16>(0.0h);
}

# if not UNITS
struct Block { values: array<f32, 8> }

// Of a block of 16 x 16 a thread has eight values of one row.
fn product(a: u32, b: u32, sum: Block, lane: u32) -> Block {
    var block = sum;
    let row = a + lane % 32u / 2u * A_STEP;
    let column = b + lane % 2u * 2u;
    for (var k = 0u; k < 16u; k += 1u) {
        let left = f32(a_tile[row + k / 4u][k % 4u]);
        for (var n = 0u; n < 8u; n += 1u) {
            block.values[n] += left * f32(b_tile[column + k * B_STEP + n / 4u][n % 4u]);
        }
    }
    return block;
}

fn put_block(block: Block, lane: u32) {
    for (var n = 0u; n < 8u; n += 1u) {
        sums[lane / 32u * 64u + lane % 32u * 2u + n / 4u][n % 4u] = block.values[n];
    }
}
# endif

@compute @workgroup_size(THREADS)
fn convolve(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let patch_x = 16u * (group.y % shape.patches_across);
    let patch_y = HEIGHT * (group.y / shape.patches_across);
    let first_column = group.x * COLUMNS4;
    let subgroup = lane / 32u;
    let row = ROWS_EACH * (subgroup / SUBGROUPS_ACROSS);
    let block = BLOCKS_EACH * (subgroup % SUBGROUPS_ACROSS);
# for i in range(A_LOADS)
    let a_pixel{{ i }} = (lane + {{ i }}u * THREADS) / SLICE4;
    let a_channel{{ i }} = (lane + {{ i }}u * THREADS) % SLICE4;
    let a_x{{ i }} = patch_x + a_pixel{{ i }} % WIDE - HALO;
    let a_y{{ i }} = patch_y + a_pixel{{ i }} / WIDE - HALO;
    let a_to{{ i }} = a_pixel{{ i }} * A_STEP + a_channel{{ i }};
# if PREFETCH
    var a_next{{ i }} = feature(a_x{{ i }}, a_y{{ i }}, a_channel{{ i }});
# endif
# endfor
    // From a row of filters to that of the next load, which has the same columns.
    let b_row = lane / COLUMNS4;
    let b_column = lane % COLUMNS4;
    let b_to = b_row * B_STEP + b_column;
# for i in range(B_LOADS)
    let b_at{{ i }} = ((b_row + {{ i }}u * (THREADS / COLUMNS4)) / SLICE * 4u * shape.inputs
        + (b_row + {{ i }}u * (THREADS / COLUMNS4)) % SLICE) * shape.outputs + first_column + b_column;
# if PREFETCH
    var b_next{{ i }} = filters[b_at{{ i }}];
# endif
# endfor
# for i in range(ROWS_EACH)
# for j in range(BLOCKS_EACH)
# if UNITS
    var sum{{ i }}_{{ j }} = coop_mat16x16<f32, C>();
# else
    var sum{{ i }}_{{ j }} = Block();
# endif
# endfor
# endfor
    for (var slice = 0u; slice < shape.inputs; slice += SLICE4) {
        workgroupBarrier();
# for i in range(A_LOADS)
        if a_pixel{{ i }} < WIDE * HIGH {
# if PREFETCH
            a_tile[a_to{{ i }}] = a_next{{ i }};
# else
            a_tile[a_to{{ i }}] = feature(a_x{{ i }}, a_y{{ i }}, slice + a_channel{{ i }});
# endif
        }
# endfor
# for i in range(B_LOADS)
# if PREFETCH
        b_tile[b_to + {{ i }}u * (THREADS / COLUMNS4) * B_STEP] = b_next{{ i }};
# else
        b_tile[b_to + {{ i }}u * (THREADS / COLUMNS4) * B_STEP] = filters[b_at{{ i }} + 4u * slice * shape.outputs];
# endif
# endfor
        workgroupBarrier();
# if PREFETCH
        let next = slice + SLICE4;
        if next < shape.inputs {
# for i in range(A_LOADS)
            a_next{{ i }} = feature(a_x{{ i }}, a_y{{ i }}, next + a_channel{{ i }});
# endfor
# for i in range(B_LOADS)
            b_next{{ i }} = filters[b_at{{ i }} + 4u * next * shape.outputs];
# endfor
        }
# endif
# for k in range(SLICE // 16)
# for x in range(SIDE)
        {
            // Rows of pixels serve the taps of a column.
# for i in range(ROWS_EACH + SIDE - 1)
            let a_at{{ i }} = ((row + {{ i }}u) * WIDE + {{ x }}u) * A_STEP + {{ k * 4 }}u;
# if UNITS
            let a{{ i }} = coopLoadT<coop_mat16x16<f16, A>>(&a_tile[a_at{{ i }}], A_STEP);
# endif
# endfor
# for y in range(SIDE)
# for j in range(BLOCKS_EACH)
            let b_at{{ y }}_{{ j }} = ({{ (y * SIDE + x) * SLICE + k * 16 }}u) * B_STEP + (block + {{ j }}u) * 4u;
# if UNITS
            let b{{ y }}_{{ j }} = coopLoadT<coop_mat16x16<f16, B>>(&b_tile[b_at{{ y }}_{{ j }}], B_STEP);
# endif
# for i in range(ROWS_EACH)
# if UNITS
            sum{{ i }}_{{ j }} = coopMultiplyAdd(a{{ i + y }}, b{{ y }}_{{ j }}, sum{{ i }}_{{ j }});
# else
            sum{{ i }}_{{ j }} = product(a_at{{ i + y }}, b_at{{ y }}_{{ j }}, sum{{ i }}_{{ j }}, lane);
# endif
# endfor
# endfor
# endfor
        }
# endfor
# endfor
    }
# for i in range(ROWS_EACH)
# for j in range(BLOCKS_EACH)
    workgroupBarrier();
# if UNITS
    coopStoreT(sum{{ i }}_{{ j }}, &sums[subgroup * 64u], 4u);
# else
    put_block(sum{{ i }}_{{ j }}, lane);
# endif
    workgroupBarrier();
    for (var index = lane % 32u; index < 64u; index += 32u) {
        let x = patch_x + index / 4u;
        let y = patch_y + row + {{ i }}u;
        let column = first_column + (block + {{ j }}u) * 4u + index % 4u;
        if x < shape.width && y < shape.height {
            put((y * shape.width + x) * shape.outputs + column, column, sums[subgroup * 64u + index]);
        }
    }
# endfor
# endfor
}

// The largest number in f16.
const MOST: vec4<f32> = vec4<f32>(65504.0);

fn put(at: u32, column: u32, sum: vec4<f32>) {
# if RELU
    outputs[at] = vec4<f16>(clamp(sum + biases[column], vec4<f32>(0.0), MOST));
# else
    var value = shape.scale * sum;
# if ADD
    value += vec4<f32>(outputs[at]);
# endif
# if STYLE
    // The features have the shape of the outputs: the gradient ends at the ReLU that they come from.
    value = select(vec4<f32>(0.0), value, vec4<f32>(features[at]) > vec4<f32>(0.0));
# endif
# if MASK
    value = select(vec4<f32>(0.0), value, vec4<f32>(activations[at]) > vec4<f32>(0.0));
# endif
    outputs[at] = vec4<f16>(clamp(value, -MOST, MOST));
# endif
}
