// Passes over the pixels: total variation, grain, temporal loss, smoothing of the gradient, and Adam. The formulas and
// constants are those of objective/{total_variation,grain,temporal,smoothing,adam}.rs.

struct Shape {
    width: u32,
    height: u32,
    total_variation_slope: f32,
    grain_slope: f32,
    temporal_slope: f32,
    // Where the sums of the total variation, of the grain and of the temporal loss begin.
    variation_sums: u32,
    grain_sums: u32,
    temporal_sums: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;

# if DETAIL or TERMS
// A value of `sharp` less its blur: 1 4 6 4 1 in both directions, mirrored at the borders.
fn detail_of(start: u32, x: u32, y: u32) -> f32 {
    var blurred = 0.0;
    for (var j = 0; j < 5; j += 1) {
        let row = start + mirrored(i32(y) + j - 2, i32(shape.height)) * shape.width;
        for (var i = 0; i < 5; i += 1) {
            blurred += binomial(i) * binomial(j) * sharp[row + mirrored(i32(x) + i - 2, i32(shape.width))];
        }
    }
    return sharp[start + y * shape.width + x] - blurred;
}

fn binomial(tap: i32) -> f32 {
    return select(select(0.0625, 0.25, tap == 1 || tap == 3), 0.375, tap == 2);
}

fn mirrored(at: i32, count: i32) -> u32 {
    let inside = select(select(at, -1 - at, at < 0), 2 * count - 1 - at, at >= count);
    return u32(clamp(inside, 0, count - 1));
}
# endif

# if DETAIL
// The image.
@group(0) @binding(1) var<storage, read> sharp: array<f32>;
@group(0) @binding(2) var<storage, read_write> detail: array<f32>;

@compute @workgroup_size(64)
fn take_detail(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pixel = (group.y * groups.x + group.x) * 64u + lane;
    let pixels = shape.width * shape.height;
    if pixel >= pixels {
        return;
    }
    for (var plane = 0u; plane < 3u; plane += 1u) {
        let start = plane * pixels;
        detail[start + pixel] = detail_of(start, pixel % shape.width, pixel / shape.width);
    }
}
# endif

# if TERMS
@group(0) @binding(1) var<storage, read> image: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(3) var<storage, read> warped: array<f32>;
@group(0) @binding(4) var<storage, read> trust: array<f32>;
// The image's detail, whose own detail is its gradient.
@group(0) @binding(5) var<storage, read> sharp: array<f32>;
@group(0) @binding(6) var<storage, read_write> losses: array<f32>;

const KNEE: f32 = 4.0;
var<workgroup> sums: array<vec3<f32>, 64>;

// dx, dy and the root, of a pixel in the image.
fn variation(plane: u32, x: u32, y: u32) -> vec3<f32> {
    let at = (plane * shape.height + y) * shape.width + x;
    let value = image[at];
    var dx = 0.0;
    var dy = 0.0;
    if x + 1u < shape.width {
        dx = image[at + 1u] - value;
    }
    if y + 1u < shape.height {
        dy = image[at + shape.width] - value;
    }
    return vec3<f32>(dx, dy, sqrt(dx * dx + dy * dy + KNEE * KNEE));
}

@compute @workgroup_size(64)
fn terms(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = group.y * groups.x + group.x;
    let pixel = number * 64u + lane;
    let pixels = shape.width * shape.height;
    var loss = vec3<f32>(0.0);
    if pixel < pixels {
        let x = pixel % shape.width;
        let y = pixel / shape.width;
        let trusted = trust[pixel];
        for (var plane = 0u; plane < 3u; plane += 1u) {
            let at = plane * pixels + pixel;
            let here = variation(plane, x, y);
            var pull = -(here.x + here.y) / here.z;
            if x > 0u {
                let left = variation(plane, x - 1u, y);
                pull += left.x / left.z;
            }
            if y > 0u {
                let above = variation(plane, x, y - 1u);
                pull += above.y / above.z;
            }
            let difference = image[at] - warped[at];
            let own = shape.total_variation_slope * pull + shape.temporal_slope * (trusted * difference)
                + shape.grain_slope * detail_of(plane * pixels, x, y);
# if ADD
            gradient[at] += own;
# else
            gradient[at] = own;
# endif
            loss += vec3<f32>(here.z - KNEE, sharp[at] * sharp[at], trusted * difference * difference);
        }
    }
    sums[lane] = loss;
    workgroupBarrier();
    for (var span = 32u; span > 0u; span /= 2u) {
        if lane < span {
            sums[lane] += sums[lane + span];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        losses[shape.variation_sums + number] = sums[0].x;
        losses[shape.grain_sums + number] = sums[0].y;
        losses[shape.temporal_sums + number] = sums[0].z;
    }
}
# endif

# if STEP
struct Step {
    // The length of the step is `base + fresh * freshness`.
    base: f32,
    fresh: f32,
    // 1 / (1 - DECAY^steps)
    correction: f32,
    padding: f32,
}

@group(0) @binding(1) var<uniform> adam: Step;
@group(0) @binding(2) var<storage, read_write> image: array<f32>;
@group(0) @binding(3) var<storage, read> gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> first_moment: array<f32>;
@group(0) @binding(5) var<storage, read_write> second_moment: array<f32>;
@group(0) @binding(6) var<storage, read_write> freshness: array<f32>;

const SMOOTHING: f32 = 0.7;
const DECAY: f32 = 0.8;
const EPSILON: f32 = 1e-12;
const AGEING: f32 = 0.0825;

@compute @workgroup_size(64)
fn take_step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pixel = (group.y * groups.x + group.x) * 64u + lane;
    let pixels = shape.width * shape.height;
    if pixel >= pixels {
        return;
    }
    let x = pixel % shape.width;
    let y = pixel / shape.width;
    // Beyond the ends the outermost values are repeated.
    let left = max(x, 1u) - 1u;
    let right = min(x + 1u, shape.width - 1u);
    let above = (max(y, 1u) - 1u) * shape.width;
    let here = y * shape.width;
    let below = min(y + 1u, shape.height - 1u) * shape.width;
    let fresh = freshness[pixel];
    let length = adam.base + adam.fresh * fresh;
    let correction = adam.correction;
    for (var plane = 0u; plane < 3u; plane += 1u) {
        let start = plane * pixels;
        let at = start + pixel;
        let row_above = row(start + above, left, x, right);
        let row_here = row(start + here, left, x, right);
        let row_below = row(start + below, left, x, right);
        let own = gradient[at];
        let smoothed = own + SMOOTHING * (0.5 * row_here + 0.25 * (row_above + row_below) - own);
        let first = DECAY * first_moment[at] + (1.0 - DECAY) * smoothed;
        let second = DECAY * second_moment[at] + (1.0 - DECAY) * smoothed * smoothed;
        first_moment[at] = first;
        second_moment[at] = second;
        let direction = correction * first / (sqrt(second * correction) + EPSILON);
        image[at] = clamp(image[at] - length * direction, 0.0, 255.0);
    }
    let older = inverseSqrt(fresh) + AGEING;
    freshness[pixel] = 1.0 / (older * older);
}

fn row(start: u32, left: u32, x: u32, right: u32) -> f32 {
    return 0.5 * gradient[start + x] + 0.25 * (gradient[start + left] + gradient[start + right]);
}
# endif
