//! The audit of affinity: a flow stays on its path, in both directions, as long as it lives.
//!
//! On the packet's path: where a subchain ends, beside the rule that the flow's answers will meet, which is looked up there
//! anyway; and where the controller replaces a head's rule. The packet says by which path it came, since every rule that it met
//! wrote that into its metadata; the rule says by which path the answers go. Both are one path, or the flow is seen by two
//! instances of a kind: `affinity_violations` counts that, out of `audited_packets`, and one a second is told.
//!
//! No violation is a flow that is new to both: a TCP SYN without ACK, and whatever comes once the old rule's time is up or its
//! connection is over. An ICMP error does not count, it only speaks about a flow.
//!
//! Nothing is decided here: a rule that was learned follows the packet, one that the controller said stays.

use packet::PathId;
use packet::headers::Headers;
use shm::rules::Event;

use crate::exact::FlowHandle;
use crate::forwarder::Forwarder;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

impl Forwarder {
    /// A packet that came by `path` is delivered; `flow` is the rule that its answers will meet.
    pub(crate) fn audit_end(&mut self, flow: FlowHandle, found: &Headers, path: PathId) {
        let is_error = found.quoted_l3.is_some();
        let Some(expected) = self.path_of(flow).filter(|_| !is_error) else { return };
        self.account.counters.audited_packets.add(1);
        let opens = found.tcp_flags & (SYN | ACK) == SYN;
        if expected != path && !opens {
            self.report_violation(flow, expected, path);
        }
    }

    /// The controller is about to replace the rule of `flow` by one with this path.
    pub(crate) fn audit_head(&mut self, flow: FlowHandle, path: PathId) {
        if let Some(expected) = self.path_of(flow).filter(|&expected| expected != path) {
            self.report_violation(flow, expected, path);
        }
    }

    fn path_of(&mut self, flow: FlowHandle) -> Option<PathId> {
        self.exact.get_mut(flow)?.action().map(|action| action.path)
    }

    fn report_violation(&mut self, flow: FlowHandle, expected: PathId, found: PathId) {
        if !self.exact.is_live(flow, self.now_ns) {
            return;
        }
        self.account.counters.affinity_violations.add(1);
        if let Some(entry) = self.exact.get_mut(flow)
            && self.violation_told.is_due(self.now_ns)
        {
            let event = Event::AffinityViolation { key: entry.key(), expected, found };
            self.controller.tell(event, &mut self.account);
        }
    }
}
