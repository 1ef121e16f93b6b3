// The content loss and its gradient, or, without a target, the squared norm of the feature maps. In a METRIC the
// difference, or the feature maps, times the metric were computed before.

struct Shape {
    // In groups of four.
    values: u32,
    // Of the gradient, times the squared norm of the target.
    slope: f32,
    // Where the sums begin.
    sums: u32,
    // Which number is the squared norm of the target.
    norm: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> features: array<Stored>;
@group(0) @binding(2) var<storage, read_write> squares: array<f32>;
# if GRADIENT
@group(0) @binding(3) var<storage, read> wanted: array<Stored>;
@group(0) @binding(4) var<storage, read_write> gradients: array<Stored>;
@group(0) @binding(5) var<storage, read> numbers: array<f32>;

// The features of a black image may be all zeros.
const SMALLEST_NORM: f32 = 1e-20;
# endif
# if METRIC
@group(0) @binding({{ 6 if GRADIENT else 3 }}) var<storage, read> products: array<Stored>;
# endif

const EACH: u32 = 8u;
var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn content(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = group.y * groups.x + group.x;
    var square = 0.0;
# if GRADIENT
    let slope = shape.slope / max(numbers[shape.norm], SMALLEST_NORM);
# endif
    for (var i = 0u; i < EACH; i += 1u) {
        let at = (number * EACH + i) * 64u + lane;
        if at < shape.values {
            let feature = vec4<f32>(features[at]);
# if GRADIENT
            let distance = feature - vec4<f32>(wanted[at]);
# else
            let distance = feature;
# endif
# if METRIC
            let product = vec4<f32>(products[at]);
# else
            let product = distance;
# endif
            square += dot(distance, product);
# if GRADIENT
# if ADD
            let gradient = vec4<f32>(gradients[at]) + slope * product;
# else
            let gradient = slope * product;
# endif
# if MASK
            gradients[at] = Stored(select(vec4<f32>(0.0), gradient, feature > vec4<f32>(0.0)));
# else
            gradients[at] = Stored(gradient);
# endif
# endif
        }
    }
    sums[lane] = square;
    workgroupBarrier();
    for (var span = 32u; span > 0u; span /= 2u) {
        if lane < span {
            sums[lane] += sums[lane + span];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        squares[shape.sums + number] = sums[0];
    }
}
