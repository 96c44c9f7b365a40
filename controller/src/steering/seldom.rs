//! Warnings that whoever sends packets can bring about: a line for each would fill the log and take the flow thread's time.

use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_secs(1);

/// A kind of warning that is given once a second at most.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    given: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Gives the warning if it is time to; it is told how many were left out since the last one.
    pub fn warn(&mut self, now: Instant, give: impl FnOnce(u64)) {
        if self.given.is_some_and(|given| now.duration_since(given) < EACH) {
            self.left_out += 1;
            return;
        }
        self.given = Some(now);
        give(std::mem::take(&mut self.left_out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a flood is a flood of warnings, or if nobody can see how many there were.
    #[test]
    fn one_warning_a_second_says_how_many_were_left_out() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        let mut given = Vec::new();
        for ms in 0..2_500 {
            seldom.warn(start + Duration::from_millis(ms), |left_out| given.push((ms, left_out)));
        }
        assert_eq!(given, [(0, 0), (1_000, 999), (2_000, 999)]);
    }
}
