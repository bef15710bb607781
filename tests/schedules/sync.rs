//! What `src/sync.rs` is to the program, over shuttle's primitives: every lock, every atomic operation, every wait and
//! every message is a point at which the explorer may let another thread go on.
//!
//! The interface is that of parking_lot and crossbeam-channel, as far as the sources use it. There is no time: whoever
//! waits with a timeout waits until something happens. So the threads that act on a timer only end when told to, and
//! a scenario does what they would do in a thread of its own.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

pub use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
pub use std::sync::Arc;

/// A mutex. A thread that panics fails the whole schedule, so poison says nothing.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// Holds a mutex. Empty only while a condition is waited for.
#[derive(Debug)]
pub struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("a guard is empty only inside of a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("a guard is empty only inside of a wait")
    }
}

/// A condition.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

/// How a wait with a timeout ended.
#[derive(Debug, Clone, Copy)]
pub struct WaitTimeoutResult;

impl WaitTimeoutResult {
    /// There is no time.
    pub fn timed_out(self) -> bool {
        false
    }
}

impl Condvar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect("a guard is empty only inside of a wait");
        guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitTimeoutResult {
        self.wait(guard);
        WaitTimeoutResult
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A lock for many readers or one writer.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

pub use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

impl<T> RwLock<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cell that is set once.
#[derive(Debug)]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    /// Touched before the value is, so that others may come first.
    turn: AtomicBool,
}

impl<T> OnceLock<T> {
    pub fn new() -> Self {
        Self { value: std::sync::OnceLock::new(), turn: AtomicBool::new(false) }
    }

    fn let_others_go(&self) {
        self.turn.load(Ordering::SeqCst);
    }

    pub fn get(&self) -> Option<&T> {
        self.let_others_go();
        self.value.get()
    }

    pub fn set(&self, value: T) -> Result<(), T> {
        self.let_others_go();
        self.value.set(value)
    }

    /// `make` must have no point at which another thread can go on.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        self.let_others_go();
        self.value.get_or_init(make)
    }
}

/// Threads.
pub mod thread {
    pub use shuttle::thread::{Builder, JoinHandle};
    pub use std::thread::panicking;

    /// A panic fails the whole schedule: it is not caught.
    pub fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
        Some(work())
    }
}

/// Channels.
pub mod channel {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::{Arc, Condvar, Mutex};

    #[derive(Debug)]
    struct State<T> {
        queue: VecDeque<T>,
        senders: usize,
        receivers: usize,
    }

    #[derive(Debug)]
    struct Shared<T> {
        bound: usize,
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    /// The way in. A channel without room only tells its receiver that nobody is left to send.
    #[derive(Debug)]
    pub struct Sender<T>(Arc<Shared<T>>);

    /// The way out.
    #[derive(Debug)]
    pub struct Receiver<T>(Arc<Shared<T>>);

    /// Nobody is left to send.
    #[derive(Debug)]
    pub struct RecvError;

    /// Why nothing was received.
    #[derive(Debug)]
    pub enum RecvTimeoutError {
        /// Never: there is no time.
        Timeout,
        /// Nobody is left to send.
        Disconnected,
    }

    /// Nothing was sent: there is no room, or nobody receives.
    #[derive(Debug)]
    pub struct TrySendError;

    /// A channel with room for `bound` messages.
    pub fn bounded<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
        let state = Mutex::new(State { queue: VecDeque::new(), senders: 1, receivers: 1 });
        let shared = Arc::new(Shared { bound, state, changed: Condvar::new() });
        (Sender(shared.clone()), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub fn try_send(&self, message: T) -> Result<(), TrySendError> {
            let mut state = self.0.state.lock();
            if state.receivers == 0 || state.queue.len() >= self.0.bound {
                return Err(TrySendError);
            }
            state.queue.push_back(message);
            drop(state);
            self.0.changed.notify_one();
            Ok(())
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().senders += 1;
            Self(self.0.clone())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.state.lock().senders -= 1;
            self.0.changed.notify_all();
        }
    }

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, RecvError> {
            let mut state = self.0.state.lock();
            loop {
                match state.queue.pop_front() {
                    Some(message) => return Ok(message),
                    None if state.senders == 0 => return Err(RecvError),
                    None => self.0.changed.wait(&mut state),
                }
            }
        }

        pub fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            self.recv().map_err(|RecvError| RecvTimeoutError::Disconnected)
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().receivers += 1;
            Self(self.0.clone())
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.state.lock().receivers -= 1;
        }
    }
}
