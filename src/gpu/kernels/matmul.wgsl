// C = A B for many matrices at once, A [rows][inner] and B [inner][columns], all in groups of four along their rows.
//
// A workgroup computes ROWS x COLUMNS values of C, a thread THREAD_ROWS x THREAD_COLUMNS of them in registers. DEPTH
// values of the inner dimension at a time go through workgroup memory, while the next are on their way.
// Rows of A and C beyond those that count must be there, up to a multiple of ROWS.

struct Sizes {
    // In groups of four.
    inner: u32,
    columns: u32,
    // From a matrix to the next, in groups of four.
    a_step: u32,
    b_step: u32,
    c_step: u32,
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> a: array<A>;
@group(0) @binding(2) var<storage, read> b: array<B>;
@group(0) @binding(3) var<storage, read_write> c: array<C>;
# if DIFFERENCE
// What is subtracted from A first.
@group(0) @binding(4) var<storage, read> subtrahend: array<A>;
# endif

const THREADS: u32 = (ROWS / THREAD_ROWS) * (COLUMNS / THREAD_COLUMNS);
// Threads side by side.
const ACROSS: u32 = COLUMNS / THREAD_COLUMNS;
const DEPTH4: u32 = DEPTH / 4u;
const COLUMNS4: u32 = COLUMNS / 4u;

var<workgroup> a_tile: array<vec4<f32>, ROWS * DEPTH4>;
var<workgroup> b_tile: array<vec4<f32>, DEPTH * COLUMNS4>;

fn left(at: u32) -> vec4<f32> {
# if DIFFERENCE
    return vec4<f32>(a[at]) - vec4<f32>(subtrahend[at]);
# else
    return vec4<f32>(a[at]);
# endif
}

@compute @workgroup_size(THREADS)
fn multiply(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.y * ROWS;
    let first_column = group.x * COLUMNS4;
    let across = lane % ACROSS;
    let down = lane / ACROSS;
    let a_from = group.z * sizes.a_step + first_row * sizes.inner;
    let b_from = group.z * sizes.b_step + first_column;
# for i in range(A_LOADS)
    let a_at{{ i }} = a_from + ((lane + {{ i }}u * THREADS) / DEPTH4) * sizes.inner + (lane + {{ i }}u * THREADS) % DEPTH4;
    var a_next{{ i }} = left(a_at{{ i }});
# endfor
# for i in range(B_LOADS)
    let b_at{{ i }} = b_from + ((lane + {{ i }}u * THREADS) / COLUMNS4) * sizes.columns + (lane + {{ i }}u * THREADS) % COLUMNS4;
    var b_next{{ i }} = vec4<f32>(b[b_at{{ i }}]);
# endfor
# for i in range(THREAD_ROWS)
# for j in range(THREAD_COLUMNS4)
    var sum{{ i }}_{{ j }} = vec4<f32>(0.0);
# endfor
# endfor
    for (var k = 0u; k < sizes.inner; k += DEPTH4) {
        workgroupBarrier();
# for i in range(A_LOADS)
        a_tile[lane + {{ i }}u * THREADS] = a_next{{ i }};
# endfor
# for i in range(B_LOADS)
        b_tile[lane + {{ i }}u * THREADS] = b_next{{ i }};
# endfor
        workgroupBarrier();
        let next = k + DEPTH4;
        if next < sizes.inner {
# for i in range(A_LOADS)
            a_next{{ i }} = left(a_at{{ i }} + next);
# endfor
# for i in range(B_LOADS)
            b_next{{ i }} = vec4<f32>(b[b_at{{ i }} + 4u * next * sizes.columns]);
# endfor
        }
# for q in range(DEPTH_BY_4)
        {
# for i in range(THREAD_ROWS)
            let a{{ i }} = a_tile[(down * THREAD_ROWS + {{ i }}u) * DEPTH4 + {{ q }}u];
# endfor
# for d in range(4)
# for j in range(THREAD_COLUMNS4)
            let b{{ d }}_{{ j }} = b_tile[({{ q }}u * 4u + {{ d }}u) * COLUMNS4 + across + {{ j }}u * ACROSS];
# for i in range(THREAD_ROWS)
            sum{{ i }}_{{ j }} = fma(vec4<f32>(a{{ i }}[{{ d }}]), b{{ d }}_{{ j }}, sum{{ i }}_{{ j }});
# endfor
# endfor
# endfor
        }
# endfor
    }
    let c_from = group.z * sizes.c_step + (first_row + down * THREAD_ROWS) * sizes.columns + first_column + across;
# for i in range(THREAD_ROWS)
# for j in range(THREAD_COLUMNS4)
    {
        let at = c_from + {{ i }}u * sizes.columns + {{ j }}u * ACROSS;
# if STYLE
        // C and A have the same shape: the gradient for the feature maps, and the feature maps.
# if ADD
        let sum = sum{{ i }}_{{ j }} + vec4<f32>(c[at]);
# else
        let sum = sum{{ i }}_{{ j }};
# endif
        c[at] = C(select(vec4<f32>(0.0), sum, vec4<f32>(a[at]) > vec4<f32>(0.0)));
# else
        c[at] = C(sum{{ i }}_{{ j }});
# endif
    }
# endfor
# endfor
}
