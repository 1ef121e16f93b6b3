// SPDX-License-Identifier: MPL-2.0

//! The pool of threads that compute. Idle threads sleep, and running jobs allocates nothing.

use std::{
    hint::spin_loop,
    io,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{Builder, JoinHandle, available_parallelism},
    time::{Duration, Instant},
};

use super::{Kind, parts::Parts, vector::Task};

/// What a job is called with: the number of the worker and that of the job.
type Job = dyn Fn(usize, usize) + Sync;

/// How long a thread spins before it sleeps: about as long as waking up takes. Many rounds follow each other faster.
const PATIENCE: Duration = Duration::from_micros(50);

/// How far threads that work beside others stand back behind these, in steps of nice(2).
const NICENESS: i32 = 10;

/// Threads that share the jobs of one [`run`](Pool::run) at a time with the thread that calls it.
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
    /// Number of the round. Like `busy` it is changed only while the state is locked, but read without the lock.
    round: AtomicU64,
    /// Workers that take jobs of the round.
    busy: AtomicUsize,
    gate: Gate,
    stands_back: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The jobs of this round; `None` when it ends.
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
    /// A pool of this many threads, including the one that calls [`run`](Self::run); 0 is one for each processor.
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
            gate: Gate::default(),
            stands_back: AtomicBool::new(false),
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

    /// Makes its threads leave the processor to others when these have work, for good. The thread that calls
    /// [`run`](Self::run) has to do so itself: see [`stand_back`].
    pub fn stand_back(&self) {
        self.shared.stands_back.store(true, Ordering::Relaxed);
    }

    /// Holds the threads at their next job until it is dropped.
    pub fn pause(&self) -> Pause<'_> {
        self.shared.gate.close()
    }

    /// Runs `job` for all numbers below `count` and waits for the last.
    ///
    /// This thread takes jobs itself, and workers help as soon as they wake up. When no job is left, it waits only for
    /// workers that have begun one.
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
        spin_until(idle);
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
            let mut task = unsafe { tasks.part(number..number + 1) };
            task.iter_mut().filter_map(Option::take).for_each(|task| kind.run(task));
        });
    }
}

/// A fair lock: threads get it in the order in which they ask. A mutex may go to the same thread again and again, so
/// that the preparation of a style would hold up the frames.
#[derive(Default)]
struct Turns {
    /// The number of the next thread to ask, and that of the thread whose turn it is.
    numbers: Mutex<(u64, u64)>,
    over: Condvar,
}

/// The turn of a thread. It ends when this is dropped.
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

    /// Runs jobs until none is left or one panics, and returns whether one did.
    fn take_jobs(&self, Work { job, count }: Work, worker: usize) -> bool {
        let jobs = || {
            // SAFETY: `Pool::run` waits for whoever has begun before the job goes away.
            let job = unsafe { &*job };
            loop {
                self.gate.pass();
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

/// Holds threads between two jobs.
#[derive(Default)]
struct Gate {
    /// The number of pauses. It is changed only while the lock is held, but read without it.
    pauses: AtomicUsize,
    lock: Mutex<()>,
    opened: Condvar,
}

/// A pause of a pool. It ends when this is dropped.
#[must_use]
pub struct Pause<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Pause<'_> {
        let _lock = self.lock();
        self.pauses.fetch_add(1, Ordering::Relaxed);
        Pause(self)
    }

    /// Waits while there is a pause.
    fn pass(&self) {
        let is_closed = || self.pauses.load(Ordering::Relaxed) > 0;
        if is_closed() {
            let mut lock = self.lock();
            while is_closed() {
                lock = self.opened.wait(lock).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let _lock = self.0.lock();
        self.0.pauses.fetch_sub(1, Ordering::Relaxed);
        self.0.opened.notify_all();
    }
}

/// Makes this thread leave the processor to others when these have work, as far as the system lets it.
pub fn stand_back() {
    // Where it cannot, threads share the processor as others do.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICENESS);
}

fn work(shared: &Shared, worker: usize) {
    let _flushing = Flushing::begin();
    let (mut seen, mut has_stood_back) = (0, false);
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
        if shared.stands_back.load(Ordering::Relaxed) && !std::mem::replace(&mut has_stood_back, true) {
            stand_back();
        }
        let panicked = shared.take_jobs(work, worker);
        state = shared.lock();
        state.panicked |= panicked;
        if shared.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
            shared.done.notify_one();
        }
        drop(state);
        spin_until(|| round() != seen);
        state = shared.lock();
    }
}

/// Spins until a condition holds, but not for long.
fn spin_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() && began.elapsed() < PATIENCE {
        spin_loop();
    }
}

/// While it lives, this thread flushes denormal numbers to zero. They take a hundred times as long as others and mean
/// nothing here.
struct Flushing {
    before: u64,
    /// It must stay in its thread.
    _here: PhantomData<*const ()>,
}

/// The bits of the control register that flush denormal results and operands to zero.
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
    fn no_job_begins_in_a_pause() {
        let (pool, begun) = (Pool::new(2).unwrap(), AtomicUsize::new(0));
        thread::scope(|scope| {
            let [first, second] = [pool.pause(), pool.pause()];
            let run = scope.spawn(|| {
                pool.run(20, &|_, _| {
                    begun.fetch_add(1, Ordering::Relaxed);
                });
            });
            drop(first);
            thread::sleep(Duration::from_millis(50));
            assert_eq!((begun.load(Ordering::Relaxed), run.is_finished()), (0, false));
            drop(second);
            run.join().unwrap();
        });
        assert_eq!(begun.into_inner(), 20);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_beside_others_stand_back() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let (own, pool) = (niceness(), Pool::new(2).unwrap());
        let seen = || {
            let seen = Mutex::new(HashSet::new());
            run_everywhere(&pool, |worker| {
                seen.lock().unwrap().insert((worker, niceness()));
            });
            seen.into_inner().unwrap()
        };
        assert_eq!(seen(), HashSet::from([(0, own), (1, own)]));
        pool.stand_back();
        // Only once.
        for _ in 0..2 {
            assert_eq!(seen(), HashSet::from([(0, own), (1, (own + NICENESS).min(19))]));
        }
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
            // The name, which comes before, ends with the last bracket; times of user and system are 12th and 13th
            // after it.
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
