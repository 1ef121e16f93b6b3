// SPDX-License-Identifier: MPL-2.0

//! The threads that compute: a pool that sleeps when there is nothing to do and allocates nothing when there is.

use std::{
    hint::spin_loop,
    io,
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{Builder, JoinHandle, available_parallelism},
    time::{Duration, Instant},
};

use super::{Kind, vector::Task};

/// What a job is called with: the number of the worker and that of the job.
type Job = dyn Fn(usize, usize) + Sync;

/// How long a thread looks out for what it waits for before it sleeps: about as long as it takes to wake up. Many rounds
/// follow each other faster.
const PATIENCE: Duration = Duration::from_micros(50);

/// Threads that share the jobs of one [`run`](Pool::run) at a time, with the one that calls it.
pub struct Pool {
    turns: Turns,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    done: Condvar,
    next: AtomicUsize,
    /// Number of the round. Like `busy` it changes only while the state is locked, but is looked at without.
    round: AtomicU64,
    /// Workers that have begun.
    busy: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// What may be begun in this round.
    work: Option<Work>,
    panicked: bool,
    closing: bool,
}

#[derive(Clone, Copy)]
struct Work {
    job: *const Job,
    count: usize,
}

// SAFETY: the job is `Sync`, and `Pool::run` does not return before all who began are through with it.
unsafe impl Send for Work {}

impl Pool {
    /// A pool of so many threads, among them that which calls [`run`](Self::run); 0 is one for each processor.
    ///
    /// # Errors
    ///
    /// If the system has no more threads to give.
    pub fn new(threads: usize) -> io::Result<Self> {
        let threads = if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads };
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            next: AtomicUsize::new(0),
            round: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
        });
        let mut pool = Self { turns: Turns::default(), shared, workers: Vec::with_capacity(threads - 1) };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = Builder::new().name(format!("neuralstyle-{worker}")).spawn(move || work(&shared, worker))?;
            pool.workers.push(thread);
        }
        Ok(pool)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` for all numbers up to `count` and waits for the last.
    ///
    /// This thread does not wait for others to wake up: it takes jobs itself, and workers help as soon as they can. When
    /// there are none left, only those are waited for that have begun.
    ///
    /// # Panics
    ///
    /// If a job does.
    pub fn run(&self, count: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let _turn = self.turns.wait();
        // SAFETY: only the lifetime is changed. The pointer is used between here and the end of the round below.
        let job: *const Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), _>(job) };
        let work = Work { job, count };
        self.shared.next.store(0, Ordering::Relaxed);
        if count > 1 {
            let mut state = self.shared.lock();
            state.work = Some(work);
            self.shared.round.fetch_add(1, Ordering::Relaxed);
            drop(state);
            self.shared.wake.notify_all();
        }
        let panicked = {
            let _flushing = Flushing::begin();
            self.shared.take_jobs(work, 0)
        };
        let idle = || self.shared.busy.load(Ordering::Relaxed) == 0;
        look_out(idle);
        let mut state = self.shared.lock();
        state.work = None;
        while !idle() {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let panicked = std::mem::take(&mut state.panicked) || panicked;
        drop(state);
        assert!(!panicked, "a computing thread panicked");
    }

    /// Runs all of the tasks and waits for the last.
    ///
    /// # Panics
    ///
    /// If a task does.
    pub fn run_tasks<T: Task + Send>(&self, kind: Kind, tasks: impl Iterator<Item = T>) {
        let mut tasks: Vec<Option<T>> = tasks.map(Some).collect();
        let count = tasks.len();
        let tasks = Parts::new(&mut tasks);
        self.run(count, &|_, number| {
            // SAFETY: no other job has this number.
            let task = unsafe { tasks.part(number..number + 1) };
            task.iter_mut().filter_map(Option::take).for_each(|task| kind.run(task));
        });
    }
}

/// Lets one thread in at a time, in the order in which they come. A mutex may let the same one in again and again, so
/// that a style that is being prepared would hold up the frames.
#[derive(Default)]
struct Turns {
    /// The number of the next thread to come, and of that whose turn it is.
    numbers: Mutex<(u64, u64)>,
    over: Condvar,
}

/// The turn of a thread, which ends with it.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn wait(&self) -> Turn<'_> {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = numbers.0;
        numbers.0 += 1;
        while numbers.1 != own {
            numbers = self.over.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        self.0.over.notify_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs jobs until there are none left. Tells whether one panicked; others go on.
    fn take_jobs(&self, Work { job, count }: Work, worker: usize) -> bool {
        let jobs = || {
            // SAFETY: `Pool::run` waits for whoever has begun before the job goes away.
            let job = unsafe { &*job };
            loop {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                job(worker, number);
            }
        };
        catch_unwind(AssertUnwindSafe(jobs)).is_err()
    }
}

fn work(shared: &Shared, worker: usize) {
    let _flushing = Flushing::begin();
    let mut seen = 0;
    let round = || shared.round.load(Ordering::Relaxed);
    let mut state = shared.lock();
    loop {
        if state.closing {
            return;
        }
        let work = match state.work {
            Some(work) if round() != seen => work,
            _ => {
                state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
        };
        seen = round();
        shared.busy.fetch_add(1, Ordering::Relaxed);
        drop(state);
        let panicked = shared.take_jobs(work, worker);
        state = shared.lock();
        state.panicked |= panicked;
        if shared.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
            shared.done.notify_one();
        }
        drop(state);
        look_out(|| round() != seen);
        state = shared.lock();
    }
}

/// Waits for something, but not for long.
fn look_out(seen: impl Fn() -> bool) {
    let began = Instant::now();
    while !seen() && began.elapsed() < PATIENCE {
        spin_loop();
    }
}

/// While it lives this thread takes numbers too small for the normal format for zero. They cost a hundred times the time
/// of others and mean nothing here.
struct Flushing {
    before: u64,
    /// It belongs to its thread.
    _here: PhantomData<*const ()>,
}

/// The bits of the control register that let such results, and operands, be zero.
const FLUSH: u64 = if cfg!(target_arch = "x86_64") {
    1 << 15 | 1 << 6
} else if cfg!(target_arch = "aarch64") {
    1 << 24
} else {
    0
};

impl Flushing {
    fn begin() -> Self {
        let before = control();
        set_control(before | FLUSH);
        Self { before, _here: PhantomData }
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        set_control(self.before);
    }
}

#[allow(unused_mut)]
fn control() -> u64 {
    let mut control = 0_u64;
    // SAFETY: the register is read into a variable that has room for it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack));
    }
    control
}

#[allow(unused_variables)]
fn set_control(control: u64) {
    // SAFETY: it is what the register held, or that with the bits of `FLUSH`, in a thread that runs nothing but kernels
    // until the register holds its own again.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, readonly));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack));
    }
}

/// A slice that the jobs of one round write to, each in places of its own.
#[derive(Clone, Copy)]
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose users promise not to touch the same places.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Whether it is a slice of this length.
    pub fn has_length(&self, length: usize) -> bool {
        self.len == length
    }

    /// One part of the slice.
    ///
    /// # Safety
    ///
    /// No other reference to any of it may be alive.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is inside the slice, and the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Where the slice begins, to reach places that are far apart.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut T {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hint::black_box, sync::Barrier, thread};

    use super::*;

    /// Has every thread of the pool do the job once.
    fn run_everywhere(pool: &Pool, job: impl Fn(usize) + Sync) {
        let barrier = Barrier::new(pool.threads());
        pool.run(pool.threads(), &|worker, _| {
            barrier.wait();
            job(worker);
        });
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn denormals_are_flushed_in_jobs_alone() {
        let made = || black_box(f32::MIN_POSITIVE) * black_box(0.5);
        let taken = || black_box(1e-40_f32) * black_box(1e10);
        let check_caller = || assert!(made() > 0.0 && taken() > 0.0);
        check_caller();
        let pool = Pool::new(2).unwrap();
        run_everywhere(&pool, |_| assert!(made() == 0.0 && taken() == 0.0));
        check_caller();
    }

    #[test]
    fn jobs_run_in_the_caller_and_the_workers() {
        let pool = Pool::new(3).unwrap();
        let threads = Mutex::new(HashSet::new());
        for _ in 0..50 {
            run_everywhere(&pool, |worker| {
                threads.lock().unwrap().insert((worker, thread::current().id()));
            });
        }
        let threads = threads.into_inner().unwrap();
        assert!(threads.len() == 3 && threads.contains(&(0, thread::current().id())), "{threads:?}");
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2).unwrap();
        let run = |limit: usize| {
            let done = AtomicUsize::new(0);
            let job = |_, number| {
                assert!(number < limit, "meant");
                done.fetch_add(1, Ordering::Relaxed);
            };
            catch_unwind(AssertUnwindSafe(|| pool.run(10, &job))).map(|()| done.into_inner())
        };
        assert!(run(5).is_err());
        assert_eq!(run(10).unwrap(), 10);
    }

    #[test]
    fn turns_are_taken_in_the_order_of_coming() {
        let (turns, order) = (Turns::default(), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            let first = turns.wait();
            for number in 1..=8 {
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    let _turn = turns.wait();
                    order.lock().unwrap().push(number);
                });
                while turns.numbers.lock().unwrap().0 <= number {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn idle_workers_sleep() {
        use std::time::Duration;

        // Hundredths of a second that this thread has computed.
        let used = || -> u64 {
            let status = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // The name, which comes before, ends with the last bracket; times of user and system are 12th and 13th after it.
            let fields = status.rsplit_once(')').unwrap().1.split_whitespace();
            fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
        };
        let pool = Pool::new(2).unwrap();
        let times = [AtomicUsize::new(0), AtomicUsize::new(0)];
        run_everywhere(&pool, |worker| times[worker].store(used() as usize, Ordering::Relaxed));
        thread::sleep(Duration::from_millis(500));
        run_everywhere(&pool, |worker| {
            let spent = used() as usize - times[worker].load(Ordering::Relaxed);
            assert!(spent < 10, "{spent} hundredths of a second in half a second without work");
        });
    }
}
