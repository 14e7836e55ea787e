//! Subtraction of other clients' requests, for arms with too few windows free of them.

use super::account::{self, Accounts};
use crate::Knowledge;
use crate::background::Background;
use crate::timeline;
use evidence::Exchange;

/// Fills the accounts of exchanges that other clients' requests overlap.
pub(crate) fn fill(k: &Knowledge, b: &Background, exchanges: &[&Exchange], out: &mut Accounts) {
    for x in exchanges {
        let t = timeline::of_exchange(k, x, &|_, c| !b.is_noise(c));
        let account = account::count(k, &t, out);
        out.list.push(account);
    }
}
