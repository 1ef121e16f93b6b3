// The first convolution: from the three planes of an image, and its gradient back to them.

struct Shape {
    mean: vec3<f32>,
    width: u32,
    height: u32,
    // In groups of four.
    channels: u32,
    // What the gradient is divided by, and padding.
    unscale: f32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;

# if FORWARD
@group(0) @binding(1) var<storage, read> image: array<f32>;
// [3][3][3][channels]: plane, row, column.
@group(0) @binding(2) var<storage, read> filters: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> biases: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> features: array<Stored>;

// The zeros around the image stand for the mean.
fn pixel(plane: u32, x: u32, y: u32) -> f32 {
    if x >= shape.width || y >= shape.height {
        return 0.0;
    }
    return image[(plane * shape.height + y) * shape.width + x] - shape.mean[plane];
}

// A thread computes four channels of eight pixels in a row.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + lane;
    let channel = index % shape.channels;
    let runs = (shape.width + 7u) / 8u;
    let x = 8u * (index / shape.channels % runs);
    let y = index / shape.channels / runs;
    if y >= shape.height {
        return;
    }
    let bias = biases[channel];
# for i in range(8)
    var sum{{ i }} = bias;
# endfor
    for (var plane = 0u; plane < 3u; plane += 1u) {
        for (var row = 0u; row < 3u; row += 1u) {
# for i in range(10)
            let p{{ i }} = pixel(plane, x + {{ i }}u - 1u, y + row - 1u);
# endfor
            let start = (plane * 9u + row * 3u) * shape.channels + channel;
            let left = filters[start];
            let middle = filters[start + shape.channels];
            let right = filters[start + 2u * shape.channels];
# for i in range(8)
            sum{{ i }} = fma(vec4<f32>(p{{ i }}), left, sum{{ i }});
# endfor
# for i in range(8)
            sum{{ i }} = fma(vec4<f32>(p{{ i + 1 }}), middle, sum{{ i }});
# endfor
# for i in range(8)
            sum{{ i }} = fma(vec4<f32>(p{{ i + 2 }}), right, sum{{ i }});
# endfor
        }
    }
    let to = (y * shape.width + x) * shape.channels + channel;
# for i in range(8)
    if x + {{ i }}u < shape.width {
        features[to + {{ i }}u * shape.channels] = Stored(max(sum{{ i }}, vec4<f32>(0.0)));
    }
# endfor
}
# endif

# if BACKWARD
// Already zero where the ReLU was.
@group(0) @binding(1) var<storage, read> gradients: array<Stored>;
// [channels][27]
@group(0) @binding(2) var<storage, read> filters: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> image_gradient: array<f32>;

const WIDTH: u32 = 16u;
const HEIGHT: u32 = 8u;
const AROUND: u32 = (WIDTH + 2u) * (HEIGHT + 2u);

// What a position adds to the 27 values that it was computed from.
var<workgroup> shares: array<f32, AROUND * 27u>;

@compute @workgroup_size(192)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if lane < AROUND {
        let x = group.x * WIDTH + lane % (WIDTH + 2u) - 1u;
        let y = group.y * HEIGHT + lane / (WIDTH + 2u) - 1u;
# for tap in range(27)
        var share{{ tap }} = 0.0;
# endfor
        if x < shape.width && y < shape.height {
            let start = (y * shape.width + x) * shape.channels;
            for (var channel = 0u; channel < shape.channels; channel += 1u) {
                let gradient = vec4<f32>(gradients[start + channel]);
# for tap in range(27)
                share{{ tap }} += dot(gradient, filters[channel * 27u + {{ tap }}u]);
# endfor
            }
        }
# for tap in range(27)
        shares[lane * 27u + {{ tap }}u] = share{{ tap }};
# endfor
    }
    workgroupBarrier();
    for (var index = lane; index < 3u * WIDTH * HEIGHT; index += 192u) {
        let plane = index / (WIDTH * HEIGHT);
        let row = index / WIDTH % HEIGHT;
        let column = index % WIDTH;
        var sum = 0.0;
        for (var tap = 0u; tap < 9u; tap += 1u) {
            let around = (row + 2u - tap / 3u) * (WIDTH + 2u) + column + 2u - tap % 3u;
            sum += shares[around * 27u + plane * 9u + tap];
        }
        let x = group.x * WIDTH + column;
        let y = group.y * HEIGHT + row;
        if x < shape.width && y < shape.height {
            image_gradient[(plane * shape.height + y) * shape.width + x] = sum * shape.unscale;
        }
    }
}
# endif
