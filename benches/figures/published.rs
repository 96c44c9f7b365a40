//! What the papers print as numbers, each with its place. Their figures have no numbers in the text that is public; nothing here is read
//! off a picture.
//!
//! - The placement paper: Mohammadkhan et al., "Virtual Function Placement and Traffic Steering in Flexible and Dynamic Software Defined
//!   Networks", LANMAN 2015.
//! - Stratos: Gember et al., "Stratos: A Network-Aware Orchestration Layer for Virtual Middleboxes in Clouds", 2013.

/// A printed number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// The number.
    pub value: f64,
    /// Where it is printed.
    pub source: &'static str,
}

/// The most flows that the optimal placement carries.
pub const FLOWS_OPTIMAL: Published = Published {
    value: 60.0,
    source: "placement paper §V-A: at most 60 flows, even with optimal placement and steering",
};
/// The most flows that B+COR carries.
pub const FLOWS_B_PLUS_COR: Published =
    Published { value: 55.0, source: "placement paper §V-A: B+COR can fit 55 flows (92 % of the optimal solution)" };
/// T.
pub const DELAY_TOLERATED_MS: Published = Published {
    value: 100.0,
    source: "placement paper §V: maximum delay is below 100, the value set in the constraint",
};
/// MaxDelay over the longest shortest path, in the worst case with delay in the objective.
pub const DELAY_STRETCH: Published = Published {
    value: 3.0,
    source: "placement paper §V: less than three times the maximum delay of the shortest path even in the worst case",
};
/// Up to so many flows every problem was solved to optimality.
pub const SOLVED_FLOWS: Published = Published {
    value: 10.0,
    source: "placement paper §V: optimal solutions are reachable for all the cases up to 10 flows",
};
/// Seconds for the optimal placement of 60 flows: at least so many.
pub const OPTIMAL_SECONDS: Published = Published {
    value: 86_400.0,
    source: "placement paper §V-A: the optimal solution for 60 flows takes more than a day even on a server",
};
/// Flow distributions per second.
pub const DISTRIBUTIONS_PER_S: Published =
    Published { value: 51.0, source: "Stratos §7.4, Table 3: one controller instance, 8 cores of 2.27 GHz, CPLEX" };
/// Latency of one, the program alone.
pub const DISTRIBUTION_MS: Published =
    Published { value: 183.0, source: "Stratos §7.4, Table 3: solving the LP with CPLEX (701 ms with file I/O)" };
/// Placements per second.
pub const PLACEMENTS_PER_S: Published =
    Published { value: 67.0, source: "Stratos §7.4, Table 3: sustained, 8 cores of 2.27 GHz" };
/// Latency of one.
pub const PLACEMENT_MS: Published = Published { value: 506.0, source: "Stratos §7.4, Table 3" };
