// SPDX-License-Identifier: MPL-2.0

//! A slice that several threads write to, each in parts of its own.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
};

/// A slice that the jobs of a round divide among themselves.
///
/// The parts of feature maps that a job writes are far apart, so that slices cannot be split beforehand. Builds with
/// debug assertions panic where two parts overlap, as rav1d's `DisjointMut` does.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
    #[cfg(debug_assertions)]
    taken: Taken,
}

// SAFETY: it is a `&mut [T]`, of which `part` gives out parts that do not overlap.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
            #[cfg(debug_assertions)]
            taken: Taken::default(),
        }
    }

    /// Takes a part of the slice.
    ///
    /// # Safety
    ///
    /// No other part that overlaps with it may be alive, in this thread or another.
    ///
    /// # Panics
    ///
    /// If the range is not inside the slice. With debug assertions also if a part that overlaps is alive.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> Part<'_, T> {
        assert!(range.start <= range.end && range.end <= self.len);
        #[cfg(debug_assertions)]
        let ticket = self.taken.take(&range);
        // SAFETY: the range is inside the slice, which nobody else can reach, and the caller vouches for the other
        // parts.
        let slice = unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) };
        Part {
            slice,
            #[cfg(debug_assertions)]
            _ticket: ticket,
        }
    }

    /// The start of the slice, to read values that are far apart.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *const T {
        self.start
    }
}

/// A part of a slice.
pub(crate) struct Part<'p, T> {
    slice: &'p mut [T],
    #[cfg(debug_assertions)]
    _ticket: Option<Ticket<'p>>,
}

impl<T> Deref for Part<'_, T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        self.slice
    }
}

impl<T> DerefMut for Part<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        self.slice
    }
}

/// The ranges of the parts that are alive. It takes no lock and allocates nothing, as in all of an iteration.
#[cfg(debug_assertions)]
struct Taken {
    /// A bit for each range in use.
    used: AtomicU64,
    /// Start and end, 32 bits each; 0 is none.
    ranges: [AtomicU64; Self::COUNT],
}

/// A range in use. It is free again when this is dropped.
#[cfg(debug_assertions)]
struct Ticket<'p> {
    taken: &'p Taken,
    number: usize,
}

#[cfg(debug_assertions)]
impl Default for Taken {
    fn default() -> Self {
        Self { used: AtomicU64::new(0), ranges: [const { AtomicU64::new(0) }; Self::COUNT] }
    }
}

#[cfg(debug_assertions)]
impl Taken {
    const COUNT: usize = u64::BITS as usize;

    /// Returns `None` for what is not checked: an empty range, one beyond 32 bits, or one more than there is room for.
    fn take(&self, range: &Range<usize>) -> Option<Ticket<'_>> {
        let (start, end) = (u32::try_from(range.start).ok()?, u32::try_from(range.end).ok()?);
        if start == end {
            return None;
        }
        let number = loop {
            let number = (!self.used.load(Ordering::SeqCst)).trailing_zeros() as usize;
            if number == Self::COUNT {
                return None;
            }
            if self.used.fetch_or(1 << number, Ordering::SeqCst) >> number & 1 == 0 {
                break number;
            }
        };
        let ticket = Ticket { taken: self, number };
        // Of two threads at this point, at least one sees the range of the other.
        self.ranges[number].store(u64::from(start) << 32 | u64::from(end), Ordering::SeqCst);
        let mut others = self.used.load(Ordering::SeqCst) & !(1 << number);
        while others != 0 {
            let other = self.ranges[others.trailing_zeros() as usize].load(Ordering::SeqCst);
            let (other_start, other_end) = ((other >> 32) as u32, other as u32);
            let overlaps = start < other_end && other_start < end;
            assert!(!overlaps, "the parts {start}..{end} and {other_start}..{other_end} of a slice overlap");
            others &= others - 1;
        }
        Some(ticket)
    }
}

#[cfg(debug_assertions)]
impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.taken.ranges[self.number].store(0, Ordering::SeqCst);
        self.taken.used.fetch_and(!(1 << self.number), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_side_by_side() {
        let mut numbers = [0; 10];
        let parts = Parts::new(&mut numbers);
        // SAFETY: they do not overlap.
        let [mut first, mut last] = unsafe { [parts.part(0..4), parts.part(4..10)] };
        first.fill(1);
        last.fill(2);
        drop((first, last));
        // SAFETY: there is no other part any more.
        unsafe { parts.part(3..5) }.fill(3);
        assert_eq!(numbers, [1, 1, 1, 3, 3, 2, 2, 2, 2, 2]);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "the parts 3..5 and 0..4 of a slice overlap")]
    fn parts_that_overlap_are_found() {
        let mut numbers = [0; 10];
        let parts = Parts::new(&mut numbers);
        // SAFETY: the first is not used any more.
        let _parts = unsafe { [parts.part(0..4), parts.part(3..5)] };
    }

    #[test]
    #[should_panic]
    fn parts_end_with_the_slice() {
        let mut numbers = [0; 10];
        let parts = Parts::new(&mut numbers);
        // SAFETY: there is no other part.
        drop(unsafe { parts.part(5..11) });
    }
}
