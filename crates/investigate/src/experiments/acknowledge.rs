//! Acknowledge: our system acknowledges each packet of the answer at once. A service that writes
//! its answer in pieces and has each wait for the acknowledgement of the one before (Nagle's
//! algorithm, RFC 896) no longer waits for the acknowledgement that systems delay (RFC 1122
//! §4.2.3.2).

use crate::Error;
use crate::run::Run;
use evidence::{Arm, Endpoint};

/// Requests driven: enough to tell that what hits every third one is gone.
const REQUESTS: u64 = 12;

/// Drives some requests whose answers are acknowledged at once.
pub(super) fn run(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    run.senses.acknowledge_at_once(true);
    let result = drive(run, endpoint);
    run.senses.acknowledge_at_once(false);
    result
}

fn drive(run: &mut Run, endpoint: &Endpoint) -> Result<(), Error> {
    for variant in 0..REQUESTS {
        if run.over() {
            break;
        }
        let request = super::request(run.config, endpoint, variant, None)?;
        let arm = Arm::Acknowledged;
        run.senses.drive(&mut run.recorder, &endpoint.name, &arm, &request)?;
    }
    Ok(())
}
