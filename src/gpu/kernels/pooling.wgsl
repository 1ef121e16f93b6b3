// The gradient of 2x2 pooling, by windows. A last row or column that no window covers gets none.

struct Shape {
    width: u32,
    height: u32,
    // In groups of four.
    channels: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> features: array<Stored>;
# if FORWARD
@group(0) @binding(2) var<storage, read_write> pooled: array<Stored>;
# else
@group(0) @binding(2) var<storage, read> gradients: array<Stored>;
@group(0) @binding(3) var<storage, read_write> unpooled: array<Stored>;
# endif

struct Place { x: u32, y: u32, channel: u32 }

fn place(group: vec3<u32>, groups: vec3<u32>, lane: u32, across: u32) -> Place {
    let index = (group.y * groups.x + group.x) * 64u + lane;
    let window = index / shape.channels;
    return Place(window % across, window / across, index % shape.channels);
}

# if FORWARD
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let across = shape.width / 2u;
    let at = place(group, groups, lane, across);
    if at.y >= shape.height / 2u {
        return;
    }
    let start = (2u * at.y * shape.width + 2u * at.x) * shape.channels + at.channel;
    let below = start + shape.width * shape.channels;
    let a = vec4<f32>(features[start]);
    let b = vec4<f32>(features[start + shape.channels]);
    let c = vec4<f32>(features[below]);
    let d = vec4<f32>(features[below + shape.channels]);
# if AVERAGE
    pooled[(at.y * across + at.x) * shape.channels + at.channel] = Stored(0.25 * (a + b + c + d));
# else
    pooled[(at.y * across + at.x) * shape.channels + at.channel] = Stored(max(max(a, b), max(c, d)));
# endif
}
# else
fn put(at: u32, feature: vec4<f32>, gradient: vec4<f32>) {
# if MASK
    unpooled[at] = Stored(select(vec4<f32>(0.0), gradient, feature > vec4<f32>(0.0)));
# else
    unpooled[at] = Stored(gradient);
# endif
}

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let across = (shape.width + 1u) / 2u;
    let at = place(group, groups, lane, across);
    if at.y >= (shape.height + 1u) / 2u {
        return;
    }
    let start = (2u * at.y * shape.width + 2u * at.x) * shape.channels + at.channel;
    let below = start + shape.width * shape.channels;
    let has_right = 2u * at.x + 1u < shape.width;
    let has_below = 2u * at.y + 1u < shape.height;
    if !(has_right && has_below) {
        let zero = vec4<f32>(0.0);
        unpooled[start] = Stored(zero);
        if has_right {
            unpooled[start + shape.channels] = Stored(zero);
        }
        if has_below {
            unpooled[below] = Stored(zero);
        }
        return;
    }
    let a = vec4<f32>(features[start]);
    let b = vec4<f32>(features[start + shape.channels]);
    let c = vec4<f32>(features[below]);
    let d = vec4<f32>(features[below + shape.channels]);
    let gradient = vec4<f32>(gradients[(at.y * (shape.width / 2u) + at.x) * shape.channels + at.channel]);
# if AVERAGE
    put(start, a, 0.25 * gradient);
    put(start + shape.channels, b, 0.25 * gradient);
    put(below, c, 0.25 * gradient);
    put(below + shape.channels, d, 0.25 * gradient);
# else
    // To the first of several in reading order.
    let top = max(max(a, b), max(c, d));
    let zero = vec4<f32>(0.0);
    let is_a = a == top;
    let is_b = (b == top) & !is_a;
    let is_c = (c == top) & !is_a & !is_b;
    let is_d = !is_a & !is_b & !is_c;
    put(start, a, select(zero, gradient, is_a));
    put(start + shape.channels, b, select(zero, gradient, is_b));
    put(below, c, select(zero, gradient, is_c));
    put(below + shape.channels, d, select(zero, gradient, is_d));
# endif
}
# endif
