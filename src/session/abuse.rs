//! Persistent abuse: refusals, second after second, far beyond any mistake.

use std::time::Instant;

use crate::protocol::CloseCode;

/// Refused messages in a second that count as abuse of that second.
const PER_SECOND: u32 = 60;
/// So many abused seconds in a row end the session.
const SECONDS: u32 = 10;

#[derive(Debug)]
pub struct Abuse {
    start: Instant,
    second: u64,
    in_second: u32,
    /// Abused seconds in a row, up to the one before this.
    streak: u32,
}

impl Abuse {
    pub fn new() -> Self {
        Self { start: Instant::now(), second: 0, in_second: 0, streak: 0 }
    }

    /// Counts one refusal. `Err` is the code to close with when it is enough.
    pub fn note(&mut self, now: Instant, code: CloseCode) -> Result<(), CloseCode> {
        let second = now.duration_since(self.start).as_secs();
        if second != self.second {
            let goes_on = second == self.second + 1 && self.in_second >= PER_SECOND;
            self.streak = if goes_on { self.streak + 1 } else { 0 };
            (self.second, self.in_second) = (second, 0);
        }
        self.in_second = self.in_second.saturating_add(1);
        if self.streak >= SECONDS { Err(code) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The second in which a client with so many refusals a second is closed.
    fn closed_after(per_second: u32, pause: Option<u64>) -> Option<u64> {
        let mut abuse = Abuse::new();
        for second in (0..30).filter(|second| Some(*second) != pause) {
            for n in 0..per_second {
                let now = abuse.start + Duration::from_millis(second * 1000 + u64::from(n));
                if abuse.note(now, CloseCode::RateAbuse).is_err() {
                    return Some(second);
                }
            }
        }
        None
    }

    #[test]
    fn only_persistent_abuse_is_closed() {
        assert_eq!(closed_after(PER_SECOND - 1, None), None, "a client that tries too often");
        assert_eq!(closed_after(PER_SECOND, None), Some(10));
        assert_eq!(closed_after(900, Some(5)), Some(16), "a pause is forgiven");
    }
}
