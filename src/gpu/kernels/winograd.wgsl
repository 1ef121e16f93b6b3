// 3x3 convolution by Winograd's F(4x4, 3x3) (Lavin and Gray 2016): input transform, 36 matrix products (matmul.wgsl),
// output transform. A thread transforms one tile of LANES channels.

struct Shape {
    width: u32,
    height: u32,
    // In groups of LANES.
    channels: u32,
    tiles_across: u32,
    first_tile: u32,
    tiles: u32,
    // Tiles from the matrix of one point to that of the next.
    step: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;

struct Place { tile: u32, channel: u32, x: u32, y: u32 }

fn place(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> Place {
    let index = (group.y * groups.x + group.x) * 64u + lane;
    let tile = index / shape.channels;
    let whole = shape.first_tile + tile;
    return Place(tile, index % shape.channels, 4u * (whole % shape.tiles_across), 4u * (whole / shape.tiles_across));
}

# if INPUT
@group(0) @binding(1) var<storage, read> features: array<Stored>;
@group(0) @binding(2) var<storage, read_write> points: array<Point>;

fn feature(x: u32, y: u32, channel: u32) -> Lanes {
    // Left of and above the image the unsigned numbers wrap around, and are too large as well.
    if x >= shape.width || y >= shape.height {
        return Lanes(0.0);
    }
    return Lanes(features[(y * shape.width + x) * shape.channels + channel]);
}

// B^T d
fn transform(d0: Lanes, d1: Lanes, d2: Lanes, d3: Lanes, d4: Lanes, d5: Lanes) -> array<Lanes, 6> {
    let a = d4 - 4.0 * d2;
    let b = d3 - 4.0 * d1;
    let c = d4 - d2;
    let d = 2.0 * (d3 - d1);
    return array<Lanes, 6>(
        4.0 * d0 - 5.0 * d2 + d4,
        a + b,
        a - b,
        c + d,
        c - d,
        4.0 * d1 - 5.0 * d3 + d5,
    );
}

fn column(x: u32, y: u32, channel: u32) -> array<Lanes, 6> {
    return transform(
        feature(x, y - 1u, channel),
        feature(x, y, channel),
        feature(x, y + 1u, channel),
        feature(x, y + 2u, channel),
        feature(x, y + 3u, channel),
        feature(x, y + 4u, channel),
    );
}

@compute @workgroup_size(64)
fn input(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = place(group, groups, lane);
    if at.tile >= shape.tiles {
        return;
    }
    let c0 = column(at.x - 1u, at.y, at.channel);
    let c1 = column(at.x, at.y, at.channel);
    let c2 = column(at.x + 1u, at.y, at.channel);
    let c3 = column(at.x + 2u, at.y, at.channel);
    let c4 = column(at.x + 3u, at.y, at.channel);
    let c5 = column(at.x + 4u, at.y, at.channel);
    let to = at.tile * shape.channels + at.channel;
    let step = shape.step * shape.channels;
# for row in range(6)
    {
        let points_of_row = transform(c0[{{ row }}], c1[{{ row }}], c2[{{ row }}], c3[{{ row }}], c4[{{ row }}], c5[{{ row }}]);
# for point in range(6)
        points[to + ({{ row }}u * 6u + {{ point }}u) * step] = Point(points_of_row[{{ point }}]);
# endfor
    }
# endfor
}
# endif

# if OUTPUT
@group(0) @binding(1) var<storage, read> products: array<Point>;
@group(0) @binding(2) var<storage, read_write> outputs: array<Stored>;
# if RELU
@group(0) @binding(3) var<storage, read> biases: array<Lanes>;
# endif
# if MASK
@group(0) @binding(3) var<storage, read> activations: array<Stored>;
# endif
# if POOL
@group(0) @binding(4) var<storage, read_write> pooled: array<Stored>;
# endif

// A^T m
fn transform(m0: Lanes, m1: Lanes, m2: Lanes, m3: Lanes, m4: Lanes, m5: Lanes) -> array<Lanes, 4> {
    let a = m1 + m2;
    let b = m1 - m2;
    let c = m3 + m4;
    let d = m3 - m4;
    return array<Lanes, 4>(m0 + a + c, b + 2.0 * d, a + 4.0 * c, b + 8.0 * d + m5);
}

fn column(start: u32, step: u32) -> array<Lanes, 4> {
    return transform(
        Lanes(products[start]),
        Lanes(products[start + 6u * step]),
        Lanes(products[start + 12u * step]),
        Lanes(products[start + 18u * step]),
        Lanes(products[start + 24u * step]),
        Lanes(products[start + 30u * step]),
    );
}

fn put(x: u32, y: u32, channel: u32, value: Lanes) {
    if x < shape.width && y < shape.height {
        let to = (y * shape.width + x) * shape.channels + channel;
# if MASK
        outputs[to] = Stored(select(Lanes(0.0), value, Lanes(activations[to]) > Lanes(0.0)));
# else
        outputs[to] = Stored(value);
# endif
    }
}

@compute @workgroup_size(64)
fn output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = place(group, groups, lane);
    if at.tile >= shape.tiles {
        return;
    }
    let step = shape.step * shape.channels;
    let start = at.tile * shape.channels + at.channel;
# for column in range(6)
    let c{{ column }} = column(start + {{ column }}u * step, step);
# endfor
# if RELU
    let bias = biases[at.channel];
# endif
# for row in range(4)
    let row{{ row }} = transform(c0[{{ row }}], c1[{{ row }}], c2[{{ row }}], c3[{{ row }}], c4[{{ row }}], c5[{{ row }}]);
# for column in range(4)
# if RELU
    let v{{ row }}{{ column }} = max(row{{ row }}[{{ column }}] + bias, Lanes(0.0));
# else
    let v{{ row }}{{ column }} = row{{ row }}[{{ column }}];
# endif
    put(at.x + {{ column }}u, at.y + {{ row }}u, at.channel, v{{ row }}{{ column }});
# endfor
# endfor
# if POOL
    pool(at.x, at.y, at.channel, v00, v01, v10, v11);
    pool(at.x + 2u, at.y, at.channel, v02, v03, v12, v13);
    pool(at.x, at.y + 2u, at.channel, v20, v21, v30, v31);
    pool(at.x + 2u, at.y + 2u, at.channel, v22, v23, v32, v33);
# endif
}

# if POOL
fn pool(x: u32, y: u32, channel: u32, a: Lanes, b: Lanes, c: Lanes, d: Lanes) {
    if x + 1u < shape.width && y + 1u < shape.height {
        let to = ((y >> 1u) * (shape.width >> 1u) + (x >> 1u)) * shape.channels + channel;
# if AVERAGE
        pooled[to] = Stored(0.25 * (a + b + c + d));
# else
        pooled[to] = Stored(max(max(a, b), max(c, d)));
# endif
    }
}
# endif
# endif
