//! Backoff: how long to wait before something is tried again.

use std::time::Duration;

use rand::RngExt;

/// Exponential backoff with jitter: `first`, doubling up to `most`, each shortened at random by up to half, so
/// that many waiters do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempts: u32,
}

impl Backoff {
    /// A backoff that has not waited yet.
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, attempts: 0 }
    }

    /// The next wait; each call counts one failed attempt.
    pub fn next_wait(&mut self) -> Duration {
        let full = doubled(self.first, self.most, self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        jittered(full)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A wait shortened at random by up to half.
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// `first` doubled `attempts` times, at most `most`.
pub fn doubled(first: Duration, most: Duration, attempts: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX).max(1)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let wait = |n| doubled(Duration::from_secs(60), Duration::from_secs(3600), n).as_secs();
        assert_eq!([wait(0), wait(1), wait(5), wait(6), wait(40)], [60, 120, 1920, 3600, 3600]);
    }

    #[test]
    fn jitter_takes_at_most_half() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(10));
        for _ in 0..100 {
            let wait = backoff.next_wait();
            assert!(wait >= Duration::from_secs(5) && wait <= Duration::from_secs(10));
        }
    }
}
