// SPDX-License-Identifier: MPL-2.0

//! Counts all memory that the test takes, in whatever thread.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// How often memory was allocated.
pub static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// The bytes that are allocated now.
pub static NOW: AtomicUsize = AtomicUsize::new(0);
/// The most bytes that were allocated at once.
pub static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system allocator's; counting has no effect on it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller vouches for the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller vouches for the pointer and its layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
