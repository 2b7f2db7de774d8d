//! What things take, on machines that have others to serve as well.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Leaves out the time for which the machine stood still. Promises of seconds are
/// measured with it; how fast things are is for benchmarks to say.
pub struct Stopwatch {
    begun: Instant,
    stood_still: Duration,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { begun: Instant::now(), stood_still: stood_still() }
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed().saturating_sub(self.stood_still())
    }

    /// For how long the machine did so meanwhile.
    pub fn stood_still(&self) -> Duration {
        stood_still().saturating_sub(self.stood_still)
    }
}

const TICK: Duration = Duration::from_millis(10);
/// Threads that want nothing but to look at the clock are hardly ever so late.
const LATE: Duration = Duration::from_millis(50);

/// For how long the machine has stood still since this was asked first: by how much a
/// thread was late that does nothing but wait.
fn stood_still() -> Duration {
    static MICROS: OnceLock<AtomicU64> = OnceLock::new();
    let mut is_first = false;
    let micros = MICROS.get_or_init(|| {
        is_first = true;
        AtomicU64::new(0)
    });
    if is_first {
        tell_of_it_when_tests_fail();
        std::thread::spawn(|| {
            loop {
                let begun = Instant::now();
                std::thread::sleep(TICK);
                let late = begun.elapsed() - TICK;
                if late > LATE {
                    micros.fetch_add(late.as_micros() as u64, Ordering::Relaxed);
                }
            }
        });
    }
    Duration::from_micros(micros.load(Ordering::Relaxed))
}

fn tell_of_it_when_tests_fail() {
    let begun = Instant::now();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        eprintln!("the machine stood still for {:.1?} of the {:.0?} before", stood_still(), begun.elapsed());
    }));
}
