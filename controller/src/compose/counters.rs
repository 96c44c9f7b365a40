//! The places of tag rules' counters, per lcore.
//!
//! A rule keeps its place for as long as its path lives. Lcores of instances have far fewer rules than places. At the tunnel of
//! a host with many paths the places may run out; further rules share the last one.

use shm::counters::TAG_COUNTERS;

/// The place that rules share when there is no other left.
const SHARED: u16 = (TAG_COUNTERS - 1) as u16;

const WORDS: usize = TAG_COUNTERS / 64;

/// Which places are taken.
#[derive(Default)]
pub(super) struct Counters {
    hosts: Vec<Vec<[u64; WORDS]>>,
}

impl Counters {
    fn words(&mut self, host: usize, lcore: usize) -> &mut [u64; WORDS] {
        if self.hosts.len() <= host {
            self.hosts.resize_with(host + 1, Vec::new);
        }
        let lcores = &mut self.hosts[host];
        if lcores.len() <= lcore {
            lcores.resize(lcore + 1, [0; WORDS]);
        }
        &mut lcores[lcore]
    }

    /// A place that a rule has already.
    pub(super) fn occupy(&mut self, host: usize, lcore: usize, counter: u16) {
        if let Some(word) = self.words(host, lcore).get_mut(usize::from(counter) / 64) {
            *word |= 1 << (counter % 64);
        }
    }

    /// A place for a new rule.
    pub(super) fn take(&mut self, host: usize, lcore: usize) -> u16 {
        let words = self.words(host, lcore);
        let free = words.iter().position(|word| *word != u64::MAX);
        let Some(index) = free else { return SHARED };
        let counter = index * 64 + words[index].trailing_ones() as usize;
        let counter = u16::try_from(counter).unwrap_or(SHARED);
        if counter != SHARED {
            words[index] |= 1 << (counter % 64);
        }
        counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_once_until_only_the_shared_one_is_left() {
        let mut counters = Counters::default();
        counters.occupy(3, 1, 2);
        assert_eq!([counters.take(3, 1), counters.take(3, 1), counters.take(3, 1)], [0, 1, 3]);
        assert_eq!(counters.take(3, 2), 0, "another lcore");
        for expected in 4..SHARED {
            assert_eq!(counters.take(3, 1), expected);
        }
        assert_eq!([counters.take(3, 1), counters.take(3, 1)], [SHARED, SHARED]);
    }
}
