// The difference D of Gram matrices in a metric M, all symmetric, [channels][channels]: first P = M D, and at LAST the
// gradient P M and its product with D, which is the squared distance <M D, D M>.

// As in gram.wgsl.
struct Shape {
    positions: u32,
    // In groups of four.
    channels: u32,
    blocks: u32,
    parts: u32,
    positions_of_part: u32,
    scale: f32,
    // The factor to the gradient.
    slope: f32,
    // Where the sums begin.
    sums: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> left: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> right: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> products: array<Difference>;
# if LAST
@group(0) @binding(4) var<storage, read> difference: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> squares: array<f32>;

var<workgroup> sums: array<f32, 128>;
# endif

// A workgroup computes 16 rows and 32 columns, a thread four values side by side; the inner dimension goes through
// workgroup memory 32 at a time.
const ROWS: u32 = 16u;
const ACROSS: u32 = 8u;
var<workgroup> left_tile: array<vec4<f32>, ROWS * ACROSS>;
var<workgroup> right_tile: array<vec4<f32>, 4u * ACROSS * ACROSS>;

@compute @workgroup_size(128)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = lane / ACROSS;
    let column = lane % ACROSS;
    let start = (group.y * ROWS + row) * shape.channels;
    let at = start + group.x * ACROSS + column;
    var sum = vec4<f32>(0.0);
    for (var first = 0u; first < shape.channels; first += ACROSS) {
        let right_at = (4u * first + row) * shape.channels + group.x * ACROSS + column;
        workgroupBarrier();
        left_tile[lane] = left[start + first + column];
        right_tile[lane] = right[right_at];
        right_tile[lane + ROWS * ACROSS] = right[right_at + ROWS * shape.channels];
        workgroupBarrier();
# for k in range(8)
        {
            let factors = left_tile[row * ACROSS + {{ k }}u];
# for d in range(4)
            sum = fma(vec4<f32>(factors[{{ d }}]), right_tile[{{ 4 * k + d }}u * ACROSS + column], sum);
# endfor
        }
# endfor
    }
# if LAST
# if HALF
    // Within the range of f16.
    products[at] = Difference(clamp(shape.slope * sum, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
# else
    products[at] = Difference(shape.slope * sum);
# endif
    sums[lane] = dot(sum, difference[at]);
    workgroupBarrier();
    for (var span = 64u; span > 0u; span /= 2u) {
        if lane < span {
            sums[lane] += sums[lane + span];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        squares[shape.sums + group.y * groups.x + group.x] = sums[0];
    }
# else
    products[at] = sum;
# endif
}
