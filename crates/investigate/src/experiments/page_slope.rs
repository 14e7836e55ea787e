//! Page slope: vary the size of the answer. Statements that grow with it are N+1; time that does
//! not is fixed cost.

use crate::Error;
use crate::run::Run;
use evidence::{Arm, Endpoint};

/// Requests a size.
const EACH: u64 = 4;
/// Sizes tried: the slope needs two, the third shows whether it is a line.
const SIZES: &[u64] = &[5, 10, 20];

/// Drives the endpoint at three sizes.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    for variant in 0..EACH {
        for &size in SIZES {
            if run.over() {
                return Ok(());
            }
            let request = super::request(run.config, endpoint, variant, Some(size))?;
            let arm = Arm::Sized { size };
            run.senses.drive(&mut run.recorder, &endpoint.name, &arm, &request)?;
        }
    }
    Ok(())
}
