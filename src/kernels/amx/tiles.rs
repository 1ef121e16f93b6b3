// SPDX-License-Identifier: MPL-2.0

//! The tile registers, and the one product that everything is made of.

use std::{arch::asm, marker::PhantomData};

use super::is_supported;
use crate::kernels::Lanes;

/// Rows and columns of a product: two tiles of 16 each. Also the numbers summed in a step, 16 pairs.
pub const SIDE: usize = 32;
/// Lines of the right factor in a step: two tiles.
pub const STEP: usize = 32;
/// Lines of the next right factor that are fetched in a step.
pub const FETCHED: usize = 8;

/// What `ldtilecfg` wants: all eight tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_of_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tile registers of this thread. They are released in the end: their state slows every switch of threads.
pub struct Tiles {
    /// They stay in their thread.
    thread: PhantomData<*const ()>,
}

/// The steps of a product: `rows` times `columns` of them, each of which takes the left factor from another place.
#[derive(Clone, Copy)]
pub struct Steps {
    pub rows: usize,
    /// From a row of steps to the next, in lines.
    pub pitch: usize,
    pub columns: usize,
    /// From a step to the next, in lines.
    pub stride: usize,
}

impl Steps {
    pub fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Lines of the left factor that are seen.
    fn reach(&self) -> usize {
        (self.rows - 1) * self.pitch + (self.columns - 1) * self.stride + SIDE
    }
}

/// `sums += a b`, 32 rows and 32 columns.
pub struct Product<'a> {
    /// The left factor: a line for each row has 32 numbers of it. The 32 lines of the first step come first.
    pub a: &'a [Lanes],
    pub steps: Steps,
    /// The right factor: for each step a tile of the first 16 columns and one of the others. A line of a tile has of
    /// each column the two numbers that belong to a pair of the left factor's.
    pub b: &'a [Lanes],
    /// Of what comes next to be multiplied with, the part to fetch: [`FETCHED`] lines of each [`STEP`].
    pub next: &'a [Lanes],
    /// Two lines for each row: the sums of its columns.
    pub sums: &'a mut [Lanes],
    /// From a row of the sums to the next, in lines.
    pub sums_pitch: usize,
    /// Whether the sums begin at zero instead of what they are.
    pub fresh: bool,
}

impl Tiles {
    /// Configures the tile registers of this thread.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn configure() -> Self {
        assert!(is_supported(), "there are no tile registers");
        // SAFETY: there are.
        unsafe { Self::configure_unchecked() }
    }

    /// The same for who finds out what is supported.
    ///
    /// # Safety
    ///
    /// The processor must have AMX, and the system must permit it.
    pub unsafe fn configure_unchecked() -> Self {
        // SAFETY: the caller vouches for the instruction, and the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
        Self { thread: PhantomData }
    }

    /// Computes `product`.
    ///
    /// A step loads four tiles and multiplies four times. The loads, from the first-level cache at 8 cycles each, hide
    /// behind the products at 16 cycles each.
    ///
    /// # Panics
    ///
    /// If a slice is too short.
    pub fn multiply(&self, product: Product) {
        let Product { a, steps, b, next, sums, sums_pitch, fresh } = product;
        assert!(steps.count() > 0 && a.len() >= steps.reach() && b.len() >= steps.count() * STEP);
        assert!(sums.len() >= (SIDE - 1) * sums_pitch + 2);
        // SAFETY: the tiles are configured, as long as `self` lives and in this thread. All lines that are read or
        // written are inside the slices, by the assertions; `next` is only prefetched, which never fails.
        unsafe {
            asm!(
                "test {n}, {n}",
                "jnz 2f",
                "mov {n}, {sums_pitch}",
                "shl {n}, 4",
                "lea {p}, [{sums} + {n}]",
                "tileloadd tmm0, [{sums} + {sums_pitch}*1]",
                "tileloadd tmm1, [{sums} + {sums_pitch}*1 + 64]",
                "tileloadd tmm2, [{p} + {sums_pitch}*1]",
                "tileloadd tmm3, [{p} + {sums_pitch}*1 + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "mov {p}, {a}",
                "mov {n}, {columns}",
                "4:",
                "tileloadd tmm4, [{p} + {line}*1]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{p} + {line}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht0 [{next}]",
                "prefetcht0 [{next} + 64]",
                "prefetcht0 [{next} + 128]",
                "prefetcht0 [{next} + 192]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht0 [{next} + 256]",
                "prefetcht0 [{next} + 320]",
                "prefetcht0 [{next} + 384]",
                "prefetcht0 [{next} + 448]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {p}, {stride}",
                "add {b}, 2048",
                "add {next}, 2048",
                "dec {n}",
                "jnz 4b",
                "add {a}, {pitch}",
                "dec {rows}",
                "jnz 3b",
                "mov {n}, {sums_pitch}",
                "shl {n}, 4",
                "lea {p}, [{sums} + {n}]",
                "tilestored [{sums} + {sums_pitch}*1], tmm0",
                "tilestored [{sums} + {sums_pitch}*1 + 64], tmm1",
                "tilestored [{p} + {sums_pitch}*1], tmm2",
                "tilestored [{p} + {sums_pitch}*1 + 64], tmm3",
                n = inout(reg) usize::from(fresh) => _,
                p = out(reg) _,
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                next = inout(reg) next.as_ptr() => _,
                rows = inout(reg) steps.rows => _,
                columns = in(reg) steps.columns,
                pitch = in(reg) steps.pitch * size_of::<Lanes>(),
                stride = in(reg) steps.stride * size_of::<Lanes>(),
                line = in(reg) size_of::<Lanes>(),
                sums = in(reg) sums.as_mut_ptr(),
                sums_pitch = in(reg) sums_pitch * size_of::<Lanes>(),
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                out("tmm3") _,
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction exists where tiles were configured.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::amx::lines::pair;

    /// Small whole numbers, of which every product and sum is exact.
    fn number(row: usize, column: usize) -> f32 {
        ((row * 37 + column * 11) % 17) as f32 - 8.0
    }

    #[test]
    fn products_equal_plain_sums() {
        if !is_supported() {
            return println!("not tested: no AMX");
        }
        let tiles = Tiles::configure();
        let mut seen = 0;
        for steps in [
            Steps { rows: 1, pitch: 0, columns: 1, stride: 0 },
            Steps { rows: 1, pitch: 0, columns: 5, stride: 40 },
            Steps { rows: 3, pitch: 7, columns: 3, stride: 1 },
        ] {
            let a: Vec<Lanes> = (0..200)
                .map(|row| Lanes(std::array::from_fn(|k| pair(number(row, 2 * k), number(row, 2 * k + 1)))))
                .collect();
            let weight = |step: usize, k: usize, column: usize| number(step * 5 + k, column + step);
            let mut b = Vec::new();
            for (step, tile, k) in (0..steps.count() * 32).map(|n| (n / 32, n / 16 % 2, n % 16)) {
                let column = |n| pair(weight(step, 2 * k, 16 * tile + n), weight(step, 2 * k + 1, 16 * tile + n));
                b.push(Lanes(std::array::from_fn(column)));
            }
            for (sums_pitch, fresh) in [(2, true), (2, false), (6, false)] {
                let mut sums = vec![Lanes([3.0; 16]); 32 * sums_pitch];
                tiles.multiply(Product { a: &a, steps, b: &b, next: &b, sums: &mut sums, sums_pitch, fresh });
                for (row, line, lane) in
                    (0..32 * sums_pitch * 16).map(|n| (n / 16 / sums_pitch, n / 16 % sums_pitch, n % 16))
                {
                    let expected = if line >= 2 {
                        3.0
                    } else {
                        let products = (0..steps.count() * 32).map(|n| {
                            let (step, k) = (n / 32, n % 32);
                            let from = step / steps.columns * steps.pitch + step % steps.columns * steps.stride;
                            number(from + row, k) * weight(step, k, 16 * line + lane)
                        });
                        products.sum::<f32>() + if fresh { 0.0 } else { 3.0 }
                    };
                    assert_eq!(sums[row * sums_pitch + line].0[lane], expected, "{row} {line} {lane}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 3 * 32 * 16 * (2 + 2 + 6));
    }
}
