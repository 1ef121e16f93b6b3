// SPDX-License-Identifier: MPL-2.0

//! The tile registers, and the one product that everything is made of.

use std::{arch::asm, marker::PhantomData};

use super::is_supported;
use crate::processor::Lanes;

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

/// The tile registers of this thread, which has no two of these at a time. They are released in the end: their state
/// slows every switch of threads.
pub struct Tiles {
    /// They stay in their thread.
    thread: PhantomData<*const ()>,
    /// There are none. What surrounds the products can be tested all the same.
    #[cfg(test)]
    are_missing: bool,
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
    /// What comes next to be multiplied with: [`FETCHED`] lines of each [`STEP`] are fetched into the cache.
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
        #[cfg(test)]
        if !is_supported() {
            return Self { thread: PhantomData, are_missing: true };
        }
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
        Self {
            thread: PhantomData,
            #[cfg(test)]
            are_missing: false,
        }
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
        #[cfg(test)]
        if self.are_missing {
            return super::tests::multiply(product);
        }
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
        #[cfg(test)]
        if self.are_missing {
            return;
        }
        // SAFETY: the instruction exists where tiles were configured.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
