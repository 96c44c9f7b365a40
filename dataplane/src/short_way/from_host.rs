//! The short way in by the tunnel.

use super::Leaving;
use crate::io_lcore::IoLcore;
use crate::meta::BareBurst;

impl IoLcore {
    /// Frames of the underlay's port `at`.
    pub(super) fn burst_from_host(&mut self, at: usize, burst: &mut BareBurst) {
        let mut leaving = Leaving::new();
        for mbuf in burst.drain() {
            self.take_long_way(at, mbuf, &mut leaving);
        }
    }
}
