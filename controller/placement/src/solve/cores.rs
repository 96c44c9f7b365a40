//! The third stage: cores among the solutions of the U and MaxDelay found.

use crate::search::Search;
use crate::solve::Run;

impl<'g> Run<'_, 'g, '_> {
    /// Lowers the cores in use.
    pub(super) fn cores(&mut self, _found: Search<'g>) {}
}
